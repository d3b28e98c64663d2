"""`choir up` beside others of its kind."""
import concurrent.futures

from conftest import Cluster


def test_clusters_that_start_at_once_do_not_fight_for_ports(tmp_path):
    def start(name):
        folder = tmp_path / name
        folder.mkdir()
        return Cluster(folder, ranks=1)

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        clusters = list(threads.map(start, "abcd"))
    try:
        addresses = {c.ready["router"] for c in clusters} | {c.ready["metrics"]["gateway"] for c in clusters}
        assert len(addresses) == 8
        assert all(c.serves() for c in clusters)
    finally:
        codes = [c.stop() for c in clusters]
    assert codes == [0] * 4
