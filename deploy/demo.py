#!/usr/bin/env python3
"""A demonstration: three discovery servers, a registry, three containerds with an agent each.

Two generated images of 200 MB and 100 MB are pushed. Node 1 pulls both from the registry; then the
registry is stopped, and nodes 2 and 3 pull the first image from their neighbours; then the raft leader is killed with
-9, and they pull the second. Everything runs on loopback in a temporary folder; all of it is stopped at the end.

Needs root (containerd), containerd, ctr, docker-registry and skopeo: `make demo` installs them.
"""

import argparse
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

MIB = 1 << 20
NODES = 3
IMAGES = {"demo/app:v1": [120, 60, 24, 4], "demo/app:v2": [60, 30, 10]}  # sizes of the layers, MiB
READY_SECONDS = 60
PULL_SECONDS = 300


class DemoError(Exception):
    """A step of the demo failed; the text says which."""


def say(text):
    print(f"\n\033[1m== {text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)


def free_ports(count=1):
    """The first of `count` consecutive free ports, below the kernel's range for outgoing connections."""
    for _ in range(1000):
        base = random.randrange(15_000, 30_000)
        try:
            for port in range(base, base + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return base
        except OSError:
            continue
    raise DemoError(f"could not find {count} consecutive free ports")


def wait_until(what, condition, seconds=READY_SECONDS):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = condition()
        if result:
            return result
        time.sleep(0.02)
    raise DemoError(f"gave up waiting for {what} after {seconds} s")


def http_status(url):
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return response.status
    except OSError:
        return None


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=PULL_SECONDS)
    if done.returncode != 0:
        raise DemoError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


class Processes:
    """Processes of the demo, stopped in reverse order. Signals go only to their pids."""

    def __init__(self, folder):
        self.folder = folder
        self.running = []

    def start(self, name, *command, env=None):
        log = open(self.folder / f"{name}.log", "wb")
        process = subprocess.Popen(
            [str(word) for word in command], stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, **(env or {})}, start_new_session=True)
        self.running.append((name, process))
        return process

    def stop(self, process):
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def stop_all(self):
        for _, process in reversed(self.running):
            self.stop(process)
        self.running.clear()

    def log(self, name):
        return (self.folder / f"{name}.log").read_text(errors="replace")


class ImageMaker:
    """Writes images as OCI layouts with layers of random bytes, which do not compress."""

    def __init__(self, folder):
        self.folder = folder

    def blob(self, data):
        digest = hashlib.sha256(data).hexdigest()
        path = self.folder / "blobs" / "sha256" / digest
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    def layer(self, name, mib):
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as archive:
            entry = tarfile.TarInfo(f"data/{name}")
            entry.size = mib * MIB
            archive.addfile(entry, io.BytesIO(os.urandom(mib * MIB)))
        return {"mediaType": "application/vnd.oci.image.layer.v1.tar", **self.blob(tar.getvalue())}

    def image(self, layers_mib):
        layers = [self.layer(f"layer-{number}", mib) for number, mib in enumerate(layers_mib)]
        config = {"architecture": "amd64", "os": "linux", "config": {},
                  "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}}
        config_blob = self.blob(json.dumps(config).encode())
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **config_blob},
                    "layers": layers}
        descriptor = {"mediaType": manifest["mediaType"], **self.blob(json.dumps(manifest).encode())}
        (self.folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [
            {**descriptor, "annotations": {"org.opencontainers.image.ref.name": "latest"}}]}))
        (self.folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        return [{"name": "manifest", **descriptor}, {"name": "config", **config_blob},
                *({"name": f"layer {number + 1}", **layer} for number, layer in enumerate(layers))]


class Demo:
    def __init__(self, binary, folder):
        self.binary = binary
        self.folder = folder
        self.processes = Processes(folder)
        self.rows = []
        self.images = {}
        self.names = {}

    # ---- what runs ----

    def start_servers(self):
        self.base_port = free_ports(6)
        self.up = self.processes.start(
            "up", self.binary, "up", "--data-dir", self.folder / "servers", "--base-port", self.base_port)
        self.servers = [f"http://127.0.0.1:{self.base_port + offset}" for offset in (0, 2, 4)]
        wait_until("a leader", lambda: self.up.poll() is None and self.leader())
        wait_until("the next steps", lambda: "Ctrl-C" in self.processes.log("up"))
        print(self.processes.log("up").partition("\n\n")[2].strip())

    def status(self, server):
        done = subprocess.run([self.binary, "status", "--server", server, "--json"], capture_output=True, text=True,
                              timeout=10)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def leader(self):
        """API address and term of the leader, if a reachable server knows one with a quorum."""
        for server in self.servers:
            status = self.status(server)
            if status and status["quorum"] and status.get("leader"):
                member = next(m for m in status["members"] if m["node"] == status["leader"])
                return member["api_address"], status["term"]
        return None

    def start_registry(self):
        port = free_ports()
        self.registry = f"127.0.0.1:{port}"
        config = self.folder / "registry.yml"
        config.write_text(
            "version: 0.1\nlog: {level: info, formatter: json, accesslog: {disabled: true}}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.folder}/registry}}}}\n"
            f"http: {{addr: '{self.registry}'}}\n")
        self.registry_process = self.processes.start("registry", "docker-registry", "serve", config)
        wait_until("the registry", lambda: http_status(f"http://{self.registry}/v2/") == 200)

    def push_images(self):
        for name, layers in IMAGES.items():
            layout = self.folder / "image"
            self.images[name] = ImageMaker(layout).image(layers)
            size = sum(blob["size"] for blob in self.images[name])
            run("skopeo", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false", f"oci:{layout}:latest",
                f"docker://{self.registry}/{name}")
            shutil.rmtree(layout)
            print(f"pushed {name}: {len(layers)} layers, {size / 1e6:.0f} MB")

    def start_node(self, number):
        root = self.folder / f"node-{number}"
        root.mkdir()
        sock = root / "containerd.sock"
        config = root / "containerd.toml"
        config.write_text(
            f"version = 2\nroot = '{root}/root'\nstate = '{root}/state'\n"
            "disabled_plugins = ['io.containerd.grpc.v1.cri', 'io.containerd.snapshotter.v1.btrfs',"
            " 'io.containerd.snapshotter.v1.zfs', 'io.containerd.snapshotter.v1.aufs',"
            " 'io.containerd.snapshotter.v1.devmapper', 'io.containerd.internal.v1.opt']\n"
            f"[grpc]\n  address = '{sock}'\n")
        self.processes.start(f"containerd-{number}", "containerd", "--config", config)
        mirror, peer, metrics = free_ports(), free_ports(), free_ports()
        self.processes.start(
            f"agent-{number}", self.binary, "agent", "--servers", ",".join(self.servers),
            "--mirror-listen", f"127.0.0.1:{mirror}", "--peer-listen", f"127.0.0.1:{peer}",
            "--metrics-listen", f"127.0.0.1:{metrics}", "--containerd-sock", sock, "--log-format", "json",
            "--state-dir", root / "agent")
        run(self.binary, "mirror", "install", "--certs-dir", root / "certs.d",
            "--registry", f"http://{self.registry}", "--mirror", f"http://127.0.0.1:{mirror}")
        wait_until(f"the agent of node {number}", lambda: http_status(f"http://127.0.0.1:{metrics}/readyz") == 200)
        self.names[f"127.0.0.1:{peer}"] = f"node {number}"
        return {"number": number, "sock": sock, "certs": root / "certs.d", "log": f"agent-{number}"}

    # ---- what is seen ----

    def registry_requests(self, offset):
        """Answers of the registry since `offset` of its log: digest or tag, bytes, seconds."""
        text = self.processes.log("registry")
        for line in text[offset:].splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event.get("http.request.method") == "GET" and event.get("msg") == "response completed":
                # A Go duration: `1.5ms`, `2m3.5s`.
                seconds = sum(float(number) * {"h": 3600, "m": 60, "s": 1, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}[unit]
                              for number, unit in re.findall(r"([\d.]+)(h|ms|m|s|µs|ns)",
                                                             str(event.get("http.response.duration", "0s"))))
                yield event["http.request.uri"].rsplit("/", 1)[1].split("?")[0], \
                    int(event.get("http.response.written", 0)), seconds

    def mirror_answers(self, node):
        """Answers of this node's mirror, one event for each pull."""
        for line in self.processes.log(node["log"]).splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event.get("message") == "pull" and event["side"] == "mirror" and not event["head"] \
                    and event["status"] in (200, 206):
                yield event

    def sources(self, node, registry_offset):
        """Source, bytes and seconds of each digest on this node."""
        seen = {what: ("registry", size, took) for what, size, took in self.registry_requests(registry_offset)}
        for answer in self.mirror_answers(node):
            source = self.names.get(answer["source"], answer["source"])
            seen[answer["what"]] = (source, answer["bytes"], answer["ms"] / 1000)
        return seen

    def pull(self, node, image):
        registry_offset = len(self.processes.log("registry"))
        started = time.monotonic()
        run("ctr", "-a", node["sock"], "-n", "k8s.io", "images", "pull", "--snapshotter", "native",
            "--hosts-dir", node["certs"], f"{self.registry}/{image}")
        seconds = time.monotonic() - started
        digests = {blob["digest"] for blob in self.images[image]}
        wait_until("log lines about the sources of all blobs",
                   lambda: digests <= self.sources(node, registry_offset).keys())
        sources = self.sources(node, registry_offset)
        for blob in self.images[image]:
            self.rows.append((f"node {node['number']}", image, blob["name"], *sources[blob["digest"]]))
        print(f"node {node['number']} pulled {image} in {seconds:.2f} s")
        return seconds

    def findable(self, image):
        """Waits until every layer is findable on every server; returns the duration in seconds."""
        started = time.monotonic()
        for server in self.servers:
            for blob in self.images[image]:
                query = urllib.parse.urlencode({"key": blob["digest"], "group": "default"})
                wait_until(f"{blob['name']} on {server}",
                           lambda: http_status(f"{server}/api/v1/distribution/findkey?{query}") == 200)
        return time.monotonic() - started

    def kill_leader(self):
        leader, term = self.leader()
        port = int(leader.rsplit(":", 1)[1])
        number = (port - self.base_port) // 2 + 1
        pid = self.server_pids()[f"server-{number}"]
        os.kill(pid, signal.SIGKILL)
        started = time.monotonic()
        self.servers = [server for server in self.servers if not server.endswith(f":{port}")]
        # It may be the same server again: `piccolo up` starts it within a second.
        wait_until("a leader with a new term", lambda: (self.leader() or (leader, term))[1] > term)
        print(f"killed server-{number} (pid {pid}, the leader); there is a leader again after {time.monotonic() - started:.2f} s")

    def print_table(self):
        header = ("node", "image", "what", "source", "bytes", "seconds")
        rows = [(*row[:4], f"{row[4]:,}", f"{row[5]:.3f}") for row in self.rows]
        widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
        for row in [header, tuple("-" * width for width in widths), *rows]:
            print("  ".join(cell.rjust(width) if column > 3 else cell.ljust(width)
                            for column, (cell, width) in enumerate(zip(row, widths))).rstrip())
        total = sum(row[4] for row in self.rows if row[3] == "registry")
        pulled = sum(row[4] for row in self.rows)
        print(f"\nregistry sent {total / 1e6:.1f} MB of {pulled / 1e6:.1f} MB pulled; "
              f"neighbours sent {(pulled - total) / 1e6:.1f} MB")

    def server_pids(self):
        """Pids of the servers by name, as `piccolo up` printed them last."""
        return {name: int(pid) for name, pid in re.findall(r"(server-\d) started pid=(\d+)", self.processes.log("up"))}

    def resident_mib(self):
        pids = {name: process.pid for name, process in self.processes.running if name.startswith("agent")}
        pids.update(self.server_pids())
        # An agent has two processes: children of a process are added to it.
        resident, parents = {}, {}
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                text = status.read_text()
                pid = int(status.parent.name)
                parents[pid] = int(re.search(r"PPid:\s+(\d+)", text).group(1))
                resident[pid] = int(re.search(r"VmRSS:\s+(\d+)", text).group(1)) / 1024
            except (OSError, AttributeError):
                continue
        for name, pid in sorted(pids.items()):
            if pid in resident:
                yield name, sum(mib for other, mib in resident.items() if pid in (other, parents[other]))

    # ---- the script ----

    def play(self):
        first, second = IMAGES
        say("three discovery servers, one command: piccolo up")
        self.start_servers()
        say("a registry and two images")
        self.start_registry()
        self.push_images()
        say(f"{NODES} nodes, each a containerd and an agent")
        nodes = [self.start_node(number) for number in range(1, NODES + 1)]
        print(f"{NODES} agents are ready")
        say("node 1 pulls both images: nobody has them yet, so they come from the registry")
        alone = self.pull(nodes[0], first)
        took = self.findable(first)
        print(f"every layer is findable on all servers {took:.3f} s after the pull")
        self.pull(nodes[0], second)
        self.findable(second)
        say("the registry is stopped, and the others pull from their neighbours")
        self.processes.stop(self.registry_process)
        beside = [self.pull(node, first) for node in nodes[1:]]
        say("the raft leader is killed with -9, and they pull the second image")
        self.kill_leader()
        for node in nodes[1:]:
            self.pull(node, second)
        say("who sent what")
        self.print_table()
        print(f"{first}: {alone:.2f} s from the registry, {min(beside):.2f} to {max(beside):.2f} s from neighbours")
        print("resident memory: " + ", ".join(f"{name} {mib:.1f} MiB" for name, mib in self.resident_mib()))
        neighbours = [row for row in self.rows if row[0] != "node 1"]
        strays = [row for row in neighbours if row[3] not in self.names.values()]
        if strays:
            raise DemoError(f"not from a neighbour: {strays}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", required=True, type=lambda text: Path(text).resolve())
    parser.add_argument("--keep", action="store_true", help="keep the folder with the logs")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("the demo needs root, because containerd does: run `sudo make demo`")
    folder = Path(tempfile.mkdtemp(prefix="piccolo-demo-"))
    demo = Demo(arguments.binary, folder)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    failed = True
    try:
        demo.play()
        failed = False
        say("done: all of it is stopped now")
    except (DemoError, subprocess.TimeoutExpired) as error:
        print(f"\nthe demo failed: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
    finally:
        demo.processes.stop_all()
        if failed or arguments.keep:
            print(f"logs are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
