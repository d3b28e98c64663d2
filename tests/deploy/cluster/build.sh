#!/usr/bin/env bash
# tests/deploy/cluster/build.sh DIR: makes Kubernetes 1.20.2 of Debian's source package in DIR/bin, for run.py. Takes
# about ten minutes of CPU and 3 GB of disk; fetches the two Debian packages it needs. As root, on Debian 12.
set -euo pipefail
[ $# -eq 1 ] || { sed -n '2,3s/^# //p' "$0" >&2; exit 2; }
mkdir -p "$1"
cd "$1"
work=$PWD
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install -y --no-install-recommends golang-1.19-go containerd containernetworking-plugins runc etcd-server \
  dnsmasq-base iptables conntrack iproute2 skopeo xz-utils gcc libc6-dev >/dev/null

if [ ! -d gopath/src/k8s.io/kubernetes ]; then
  mkdir -p sources lists gopath/src/k8s.io
  sed 's/^Types:.*/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >sources/src.sources
  options=(-o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$work/sources" -o "Dir::State::lists=$work/lists")
  apt-get -qq "${options[@]}" update
  apt-get -qq "${options[@]}" source --download-only kubernetes
  tar xzf kubernetes_*.orig.tar.gz -C gopath/src/k8s.io
  mv gopath/src/k8s.io/kubernetes-* gopath/src/k8s.io/kubernetes
  # The vendored reflect2 crashes under Go 1.18 and later, Debian's does not.
  apt-get -qq download golang-github-modern-go-reflect2-dev
  dpkg -x golang-github-modern-go-reflect2-dev*.deb reflect2
  vendored=gopath/src/k8s.io/kubernetes/vendor/github.com/modern-go
  rm -rf $vendored/reflect2
  cp -r reflect2/usr/share/gocode/src/github.com/modern-go/reflect2 $vendored/
  rm -f $vendored/reflect2/*_test.go
fi

cd gopath/src/k8s.io/kubernetes
PATH=$(dirname "$(dpkg -L golang-1.19-go | grep 'bin/go$')"):$PATH
export PATH GOPATH=$work/gopath GOCACHE=$work/cache GO111MODULE=off GOPROXY=off CGO_ENABLED=0
go build -o "$work/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
packages=$(find -L vendor/k8s.io pkg -name '*.go' -not -path '*/code-generator/*' -not -path '*/sample-apiserver/*' \
  -not -path '*/kube-openapi/test/*' -not -path '*/testdata/*' -print0 | xargs -0 grep -l '+k8s:openapi-gen=' |
  xargs -n1 dirname | LC_ALL=C sort -u | sed 's#^#k8s.io/kubernetes/#' | paste -sd,)
"$work/openapi-gen" --logtostderr -i "$packages" -p k8s.io/kubernetes/pkg/generated/openapi -O zz_generated.openapi \
  -h vendor/k8s.io/code-generator/hack/boilerplate.go.txt -r "$work/violations"
flags='-s -w'
for package in component-base/version client-go/pkg/version; do
  at=k8s.io/kubernetes/vendor/k8s.io/$package
  flags="$flags -X $at.gitVersion=v1.20.2 -X $at.gitMajor=1 -X $at.gitMinor=20"
done
go build -ldflags "$flags" -o "$work/bin/" ./cmd/kube-apiserver ./cmd/kube-controller-manager ./cmd/kube-scheduler ./cmd/kubelet ./cmd/kube-proxy

cd "$work"
printf '#include <signal.h>\n#include <unistd.h>\nstatic void end(int s) { (void)s; _exit(0); }\nint main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }\n' >pause.c
gcc -O1 -static -o bin/pause pause.c
echo "Kubernetes 1.20.2 is in $work/bin"
