"""A Ray cluster of two machines of one CPU each, played on this one. Says its address; loses the second when a line comes in; ends with its input."""

import sys

from ray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
try:
    second = cluster.add_node(num_cpus=1)
    print(cluster.address, flush=True)
    if sys.stdin.readline():
        cluster.remove_node(second, allow_graceful=False)
        print("lost", flush=True)
    sys.stdin.read()
finally:
    cluster.shutdown()
