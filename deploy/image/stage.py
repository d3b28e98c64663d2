#!/usr/bin/env python3
"""Lays out the files of an image: programs of a build, the Debian libraries they load, licences, and a bill of
materials (CycloneDX 1.5). Called by deploy/image/build; needs a Debian machine and binutils."""
import argparse
import hashlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import uuid

PROGRAMS = ("choir", "choir-router", "choir-worker", "choir-gateway")
CUDA_MODULE = "choir_cuda.so"
CERTIFICATES = pathlib.Path("/etc/ssl/certs/ca-certificates.crt")
PASSWD = "root:x:0:0:root:/:/sbin/nologin\nchoir:x:65532:65532:Choir:/var/lib/choir:/sbin/nologin\n"
GROUP = "root:x:0:\nchoir:x:65532:\n"
# The driver's; they come from the node.
FROM_THE_NODE = re.compile(r"lib(cuda|nvidia-[a-z-]+)\.so")


class StageError(Exception):
    pass


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def libraries_of(path):
    """Where the loader finds what `path` needs, the loader itself included."""
    found = set()
    for line in output("ldd", str(path)).splitlines():
        if FROM_THE_NODE.search(line):
            continue
        if "not found" in line:
            raise StageError(f"{path} needs a library that is not here:{line}")
        match = re.search(r"(?:=> )?(/\S+) \(0x", line)
        if match:
            found.add(pathlib.Path(match.group(1)))
    return found


def packages_of(paths):
    """The Debian package of each file: path -> (name, version, architecture, source); None: no package owns it."""
    candidates = {p: {str(p), str(p.resolve()), str(usr(p))} for p in paths}
    asked = sorted(set().union(*candidates.values()))
    found = subprocess.run(["dpkg-query", "-S", *asked], capture_output=True, text=True).stdout  # fails when one is unknown
    owner = {path: names.split(", ")[0] for names, path in (line.split(": ", 1) for line in found.splitlines())}
    names = {p: next((owner[c] for c in sorted(cs) if c in owner), None) for p, cs in candidates.items()}
    wanted = sorted({n for n in names.values() if n})
    shown = output("dpkg-query", "-W", "-f", "${binary:Package}\t${Package}\t${Version}\t${Architecture}\t${source:Package}\n", *wanted)
    facts = {line.split("\t")[0]: tuple(line.split("\t")[1:]) for line in shown.splitlines()}
    by_name = {f[0]: f for f in facts.values()}
    return {p: n and (facts.get(n) or by_name[n.split(":")[0]]) for p, n in names.items()}


def place(source, root, target, mode=0o644):
    target = root / str(target).lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)
    return target


def usr(path):
    """Where a library lies in a file system whose /lib is /usr/lib."""
    return path if str(path).startswith("/usr/") else pathlib.Path("/usr") / path.relative_to("/")


def write(root, name, text):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)
    (root / name).chmod(0o644)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def add_files(root, programs, libraries, components):
    for source, target in programs:
        placed = place(source, root, target, 0o755)
        subprocess.run(["strip", "--strip-unneeded", str(placed)], check=True)
        components.append({"type": "file", "name": str(target), "hashes": [{"alg": "SHA-256", "content": sha256(placed)}]})
    packages = {}
    owners = packages_of(libraries) if libraries else {}
    for library in sorted(libraries):
        place(library, root, usr(library), 0o755)
        packages.setdefault(owners[library], []).append(library)
    for package in sorted(p for p in packages if p):
        name, version, architecture, origin = package
        licence = pathlib.Path("/usr/share/doc") / name / "copyright"
        if licence.exists():
            place(licence, root, licence)
        components.append({
            "type": "library", "name": name, "version": version,
            "purl": f"pkg:deb/debian/{name}@{version.replace('+', '%2B').replace(':', '%3A')}?arch={architecture}&distro=debian-12",
            "properties": [{"name": "choir:source-package", "value": origin},
                           *({"name": "choir:file", "value": str(usr(f))} for f in packages[package])]})
    for library in packages.get(None, []):  # as NVIDIA's from their own packages
        components.append({"type": "library", "name": library.name, "hashes": [{"alg": "SHA-256", "content": sha256(library)}]})


def bill(version, components):
    components = [{"bom-ref": f"{c['type']}:{c['name']}", **c} for c in components]
    body = {"components": components, "version": version}
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(body, sort_keys=True))  # the same files, the same bill
    return json.dumps({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "serialNumber": f"urn:uuid:{serial}", "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": "choir", "name": "choir", "version": version,
                                   "licenses": [{"license": {"id": "Apache-2.0"}}]}},
        "components": components,
        "dependencies": [{"ref": "choir", "dependsOn": [c["bom-ref"] for c in components]}]}, indent=1) + "\n"


def stage_cpu(bin_dir, out, version):
    root = out / "rootfs"
    missing = [p for p in PROGRAMS if not (bin_dir / p).exists()]
    if missing:
        raise StageError(f"{bin_dir} lacks {', '.join(missing)}: build first, tools/build release")
    libraries = set().union(*(libraries_of(bin_dir / p) for p in PROGRAMS))
    root.mkdir(parents=True)
    for link in ("bin", "lib", "lib64"):
        (root / "usr" / link).mkdir(parents=True)
        (root / link).symlink_to(f"usr/{link}")
    components = []
    add_files(root, [(bin_dir / p, f"/usr/bin/{p}") for p in PROGRAMS], libraries, components)
    write(root, "etc/passwd", PASSWD)
    write(root, "etc/group", GROUP)
    write(root, "etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
    if CERTIFICATES.exists():
        place(CERTIFICATES, root, CERTIFICATES)
    place(pathlib.Path(__file__).resolve().parents[2] / "LICENSE", root, "/usr/share/doc/choir/LICENSE")
    for directory in ("tmp", "etc/choir", "models", "var/lib"):  # mount points
        (root / directory).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    write(root, "usr/share/choir/sbom.cdx.json", bill(version, components))
    (out / "state").mkdir()
    return libraries


def stage_cuda(bin_dir, out, version, have):
    module = next((p for p in (bin_dir / CUDA_MODULE, bin_dir.parent / "lib" / CUDA_MODULE) if p.exists()), None)
    if module is None:
        raise StageError(f"{bin_dir} has no {CUDA_MODULE}: this build was made without nvcc, so there is no CUDA image of it")
    root = out / "rootfs-cuda"
    components = []
    add_files(root, [(module, f"/usr/bin/{CUDA_MODULE}")], libraries_of(module) - have, components)
    write(root, "usr/share/choir/sbom-cuda.cdx.json", bill(version, components))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="a directory that does not exist yet")
    parser.add_argument("--version", required=True)
    parser.add_argument("--target", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    have = stage_cpu(args.bin, args.out, args.version)
    if args.target == "cuda":
        stage_cuda(args.bin, args.out, args.version, have)


if __name__ == "__main__":
    try:
        main()
    except StageError as error:
        sys.exit(f"deploy/image: {error}")
