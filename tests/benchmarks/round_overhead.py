"""What a round costs beyond the work in it: resident link and agent against Flower's stock path, same machine and run.

Three sites as processes, TLS, node keys, 1 MB there and 1 MB back. Ours: link + agent, the agent echoes. Stock:
flower-supernode, which starts flower-superexec, which starts a process for each message; its ClientApp imports torch
and echoes. CPU-seconds are user + system of all processes of the three sites, those that have ended included.

    python tests/benchmarks/round_overhead.py [ROUNDS] [STOCK_ROUNDS]      prints one JSON object
"""

import contextlib
import hashlib
import io
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from genopact_client.link import nodekey
from genopact_server.link import executor, runtime
from genopact_server.link.control import Control
from genopact_server.link.grid import GridCourier
from genopact_server.link.host import HostConfig
from genopact_shared.errors import GenopactError
from tests.integration.federation import HASH, STUDY, certificates, host_config
from tests.integration.processes import ENVIRONMENT, Processes, free_port, processes

SITES: tuple[str, ...] = ("alpha", "beta", "gamma")
BODY = 1_000_000
WARM_UP = 3
_TICK = os.sysconf("SC_CLK_TCK")

_CLIENT = """\
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.query()
def query(message: Message, context: Context) -> Message:
    torch.zeros(1)
    record = ConfigRecord({"envelope": message.content["genopact"]["envelope"]})
    return Message(RecordDict({"genopact": record}), reply_to=message)
"""
_PROJECT = """\
[project]
name = "stock"
version = "1.0.0"
description = ""
license = "Apache-2.0"

[tool.flwr.app]
publisher = "bench"

[tool.flwr.app.components]
serverapp = "stock.server:app"
clientapp = "stock.client:app"
"""


def cpu_seconds(roots: Iterable[int]) -> float:
    """User and system time of `roots`, their descendants and those of them that have ended."""
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            number = int(path.parent.name)
            parents[number], ticks[number] = int(fields[1]), sum(map(int, fields[11:15]))
    wanted, found = set(roots), set[int]()
    while wanted:
        found |= wanted
        wanted = {number for number, parent in parents.items() if parent in wanted} - found
    return sum(ticks.get(number, 0) for number in found) / _TICK


def measure(exchange: Callable[[dict[str, bytes]], int], rounds: int, roots: list[int]) -> dict[str, Any]:
    """Wall and CPU seconds a round; the first WARM_UP rounds of ours, one of stock, are not counted by the caller."""
    walls = []
    before = cpu_seconds(roots)
    for _ in range(rounds):
        body = dict.fromkeys(SITES, secrets.token_bytes(BODY))
        began = time.monotonic()
        replies = exchange(body)
        walls.append(time.monotonic() - began)
        assert replies == len(SITES), f"{replies} replies"
    return {
        "rounds": rounds,
        "wall_s_median": round(statistics.median(walls), 3),
        "wall_s_range": [round(min(walls), 3), round(max(walls), 3)],
        "cpu_s_per_round": round((cpu_seconds(roots) - before) / rounds, 3),
    }


def ours(
    folder: Path, running: Processes, settings: executor.ExecutorConfig, control: Control, rounds: int
) -> dict[str, Any]:
    """Links and agents."""
    port = str(control_port(control))
    names = [f"{role}-{site}" for site in SITES for role in ("agent", "link")]
    for name in names:
        role, _, site = name.partition("-")
        running.start(name, role, site, *([port] if role == "link" else []))
    wait_online(control)
    stop, results = threading.Event(), dict[str, Any]()

    def main(courier: GridCourier, _: executor.RunInfo) -> None:
        stop.set()

        def exchange(body: dict[str, bytes]) -> int:
            return len(courier.exchange(body, 60.0))

        measure(exchange, WARM_UP, [])
        results.update(measure(exchange, rounds, [running.running[name].pid for name in names]))

    control.submit(STUDY, HASH, SITES)
    executor.serve(settings, main, stop)
    for name in names:
        running.stop(name)
    wait_online(control, online=False)
    return results


def stock(folder: Path, settings: executor.ExecutorConfig, control: Control, rounds: int) -> dict[str, Any]:
    """flower-supernode, flower-superexec, a process per message, and Flower's own Grid with its polling."""
    from flwr.app import ConfigRecord, Message, RecordDict
    from flwr.common.serde import run_from_proto
    from flwr.proto.control_pb2 import StartRunRequest
    from flwr.proto.fab_pb2 import Fab
    from flwr.proto.runtime_pb2 import PullTaskInputRequest, PushTaskOutputRequest
    from flwr.supercore.task_identity import TaskIdentity
    from flwr.superlink.grid import HttpGrid

    with supernodes(folder, control_port(control)) as roots:
        wait_online(control)
        content = fab()
        whole = Fab(hash_str=hashlib.sha256(content).hexdigest(), content=content)
        control._client.StartRun(StartRunRequest(fab=whole, federation=HASH))
        token = runtime.acquire(settings.address, settings.secret)
        assert token is not None
        grid = HttpGrid(settings.address, insecure=True, token=token)
        task = grid._runtime_client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id = task.task_id, task.run.run_id
        TaskIdentity.node_id = task.context.node_id
        grid.set_run(run_from_proto(task.run))
        nodes = settings.membership.nodes(HASH)
        beat = threading.Event()
        threading.Thread(target=heartbeats, args=(grid, beat), daemon=True).start()

        def exchange(body: dict[str, bytes]) -> int:
            messages = [
                Message(RecordDict({"genopact": ConfigRecord({"envelope": body[site]})}), nodes[site], "query")
                for site in SITES
            ]
            return sum(reply.has_content() for reply in grid.send_and_receive(messages, timeout=300))

        measure(exchange, 1, [])
        result = measure(exchange, rounds, roots)
        beat.set()
        grid._runtime_client.PushTaskOutput(PushTaskOutputRequest(sub_status="completed", details=""))
        grid.close()
        return result


def heartbeats(grid: Any, stop: threading.Event) -> None:
    from flwr.proto.runtime_pb2 import SendTaskHeartbeatRequest

    while not stop.wait(10):
        grid._runtime_client.SendTaskHeartbeat(SendTaskHeartbeatRequest())


@contextlib.contextmanager
def supernodes(folder: Path, port: int) -> Iterator[list[int]]:
    """One stock SuperNode a site."""
    bin_folder = Path(sys.executable).parent
    started = []
    for site in SITES:
        home = folder / f"home-{site}"
        home.mkdir()
        environment = {**ENVIRONMENT, "FLWR_HOME": str(home), "PATH": f"{bin_folder}:{os.environ['PATH']}"}
        command = [str(bin_folder / "flower-supernode"), "--superlink", f"127.0.0.1:{port}"]
        command += ["--root-certificates", str(folder / "ca.pem"), "--port", str(free_port())]
        command += ["--auth-supernode-private-key", str(folder / f"{site}.key")]
        with (folder / f"supernode-{site}.out").open("wb") as out:
            started.append(subprocess.Popen(command, stdout=out, stderr=out, env=environment))
    try:
        yield [process.pid for process in started]
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(30)


def fab() -> bytes:
    """The bundle of the stock path, with code in it."""
    files = {"pyproject.toml": _PROJECT, "stock/__init__.py": "", "stock/client.py": _CLIENT, "stock/server.py": ""}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        lines = [f"{name},{hashlib.sha256(text.encode()).hexdigest()},{len(text) * 8}" for name, text in files.items()]
        archive.writestr(".info/CONTENT", "\n".join(lines))
    return buffer.getvalue()


def control_port(control: Control) -> int:
    return int(control._client._base_url.rpartition(":")[2])


def wait_online(control: Control, *, online: bool = True, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(GenopactError):
            sites = control.sites()
            if len(sites) == len(SITES) and all(here is online for here in sites.values()):
                return
        assert time.monotonic() < end, "sites did not change their state"
        time.sleep(0.2)


def compare(rounds: int = 20, stock_rounds: int = 3) -> dict[str, Any]:
    """Both paths and their ratios."""
    with tempfile.TemporaryDirectory() as name, processes(Path(name)) as running:
        folder = Path(name)
        certificates(folder)
        config: HostConfig = host_config(folder)
        token = config.accounts.add("operator", "operator")
        port, runtime_port = free_port(), free_port()
        running.start("superlink", "superlink", str(port), str(runtime_port))
        settings = executor.ExecutorConfig(f"127.0.0.1:{runtime_port}", config.secret, config.membership, 0.2)
        with Control(f"127.0.0.1:{port}", (folder / "ca.pem").read_bytes(), token, config.membership) as control:
            register(folder, control)
            resident = ours(folder, running, settings, control, rounds)
            naive = stock(folder, settings, control, stock_rounds) if stock_rounds else {}
    ratios = (
        {
            "ratio_wall": round(naive["wall_s_median"] / resident["wall_s_median"], 2),
            "ratio_cpu": round(naive["cpu_s_per_round"] / resident["cpu_s_per_round"], 1),
        }
        if naive
        else {}
    )
    return {
        "sites": len(SITES),
        "body_bytes": BODY,
        "resident": resident,
        "stock": naive,
        **ratios,
        "load": round(os.getloadavg()[0], 1),
    }


def register(folder: Path, control: Control) -> None:
    end = time.monotonic() + 60
    for site in SITES:
        pem = nodekey.public_pem(nodekey.create(folder / f"{site}.key"))
        while True:
            try:
                control.register_site(site, pem)
                break
            except GenopactError:
                assert time.monotonic() < end, "the SuperLink did not start"
                time.sleep(0.2)


def main(arguments: list[str]) -> None:
    """Print the rows."""
    found = compare(*map(int, arguments))
    resident, stock_path = found["resident"], found["stock"]
    about = f"3 sites, link and agent processes each, TLS, node keys, {BODY} bytes each way, load {found['load']}"
    note = f"{about}; {resident['cpu_s_per_round']} CPU-s a round over the three sites (bar 0.6); {resident}"
    print(json.dumps({"row": "chain.5", "value": resident["wall_s_median"], "note": note}))
    if stock_path:
        note = f"{about}; CPU ratio {found['ratio_cpu']} (bar 20); SuperNode, SuperExec and ClientApp: {stock_path}"
        print(json.dumps({"row": "chain.5.peer", "value": found["ratio_wall"], "note": note}))


if __name__ == "__main__":
    main(sys.argv[1:3])
