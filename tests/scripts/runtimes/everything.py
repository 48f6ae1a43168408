"""What servers in Python do all day, tried one by one: prints a line `name: result` for each."""

import asyncio
import concurrent.futures
import ctypes
import http.client
import http.server
import mmap
import multiprocessing
import os
import pathlib
import select
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading


def threads():
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        return sum(pool.map(lambda n: n * n, range(1000)))


def processes():
    with multiprocessing.get_context("fork").Pool(3) as pool:
        forked = sum(pool.map(abs, range(-100, 0)))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return forked + pool.apply(abs, (-7,))


def shell():
    pipe = "printf 'a\\nb\\n' | wc -l; exit 3"
    done = subprocess.run(["sh", "-c", pipe], capture_output=True, text=True, start_new_session=True)
    return done.stdout.strip(), done.returncode


def http_over_tcp():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.path.encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("localhost", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = http.client.HTTPConnection("localhost", server.server_port)
        client.request("GET", "/page")
        answer = client.getresponse().read().decode()
        server.shutdown()
    return answer


def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        one.sendto(b"x" * 1000, one.getsockname())
        return len(one.recv(2000))


def unix():
    with tempfile.TemporaryDirectory() as place:
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind(f"{place}/s")
            server.listen()
            client.connect(f"{place}/s")
            peer, _ = server.accept()
            with open("/etc/hostname") as passed, peer:
                socket.send_fds(client, [b"one"], [passed.fileno()])
                _, fds, _, _ = socket.recv_fds(peer, 10, 1)
                os.close(fds[0])
                return len(fds)


def names():
    family = {info[0].name for info in socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)}
    return sorted(family), [name for _, name in socket.if_nameindex()]


def event_loop():
    async def main():
        child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
        out, _ = await child.communicate(b"through cat")
        await asyncio.gather(*(asyncio.sleep(0.001) for _ in range(200)))
        return out.decode()

    return asyncio.run(main())


def memory():
    with mmap.mmap(-1, 1 << 20) as shared:
        if os.fork() == 0:
            shared[:5] = b"child"
            os._exit(0)
        os.wait()
        return bytes(shared[:5]).decode()


def signals():
    heard = []
    signal.signal(signal.SIGUSR1, lambda *_: heard.append("heard"))
    os.kill(os.getpid(), signal.SIGUSR1)
    return heard


def files():
    with tempfile.TemporaryDirectory() as place:
        file = pathlib.Path(place) / "f"
        file.write_text("x" * 100_000)
        os.chmod(file, 0o600)
        os.symlink(file, f"{place}/link")
        database = sqlite3.connect(f"{place}/db")
        database.execute("create table t (a)")
        database.executemany("insert into t values (?)", [(n,) for n in range(100)])
        database.commit()
        return os.stat(f"{place}/link").st_size, database.execute("select sum(a) from t").fetchone()


def library():
    return ctypes.CDLL(None).abs(-5)


def polling():
    read, write = os.pipe()
    poll = select.epoll()
    poll.register(read, select.EPOLLIN)
    os.write(write, b"1")
    return len(poll.poll(1))


if __name__ == "__main__":
    for one in (
        threads, processes, shell, http_over_tcp, udp, unix, names, event_loop, memory, signals,
        files, library, polling,
    ):
        try:
            print(f"{one.__name__}: {one()}")
        except Exception as error:
            print(f"{one.__name__}: failed: {error!r}")
        sys.stdout.flush()
