"""Pages of the documentation, run from top to bottom as a reader would.

What is run: Python (an `await` outside of a function works as in `python -m asyncio`), SQL, and the commands of console
blocks, whose output is compared; `…` in it stands for anything. A Python block with a caption is a file of that name, for the
commands and imports below it. An HTML comment that begins with `run:` is Python the reader does not see: the stage, and what
the page's claims are checked with. There `page` is this page.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import shlex
import socket
import subprocess
import sys
import types
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import attrs
import httpx
from asgi_lifespan import LifespanManager

from asyncjobs._bus import subscribing
from asyncjobs._define import registry
from tests.waiting import eventually_async

ROOT = Path(__file__).parent.parent
COMMAND = 45  #: seconds one may take; fewer than a test's
TOP_LEVEL_AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT

_BLOCK = re.compile(
    r"^(?P<fence>```+)(?P<info>[^\n]*)\n(?P<code>.*?)^(?P=fence)[ \t]*$|^<!-- run:\n(?P<hidden>.*?)^-->",
    re.DOTALL | re.MULTILINE,
)
_CAPTION = re.compile(r"^:caption: (\S+)\n\n?", re.MULTILINE)


@attrs.frozen
class Block:
    """Something to run."""

    language: str
    code: str
    line: int  #: where the code begins
    caption: str | None = None


def blocks_of(text: str) -> Iterator[Block]:
    """The blocks of a page, in order."""
    for match in _BLOCK.finditer(text):
        if match["hidden"] is not None:
            yield Block("python", match["hidden"], _line(text, match.start("hidden")))
            continue
        info, code, start = match["info"].strip(), match["code"], match.start("code")
        language = info.removeprefix("{code-block}").strip()
        caption = _CAPTION.match(code)
        if caption is not None:
            start += caption.end()
            code = code[caption.end() :]
        yield Block(language, code, _line(text, start), caption[1] if caption else None)


def _line(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1


def free_port() -> int:
    """A port of the loopback nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@attrs.define
class Page:
    """A page being run."""

    path: Path
    dsn: str
    folder: Path  #: of its files; the commands run there
    stack: AsyncExitStack
    module: types.ModuleType = attrs.field(init=False)
    port: int = attrs.field(factory=free_port)
    _environment: dict[str, str] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        name = "docs_" + re.sub(r"\W+", "_", str(self.path.relative_to(ROOT / "docs").with_suffix("")))
        self.module = types.ModuleType(name)
        self.module.__dict__["page"] = self

    async def run(self) -> None:
        """Run every block."""
        for block in blocks_of(self.path.read_text()):
            if block.caption is not None:
                (self.folder / block.caption).write_text(block.code)
            elif block.language == "python":
                await self._run_python(block)
            elif block.language == "sql":
                await self.sql(block.code)
            elif block.language == "console":
                await self._run_console(block)

    async def _run_python(self, block: Block) -> None:
        source = "\n" * (block.line - 1) + block.code
        code = compile(source, str(self.path), "exec", TOP_LEVEL_AWAIT)
        outcome = eval(code, self.module.__dict__)
        if inspect.isawaitable(outcome):
            await outcome

    # For the stage.

    def load(self, name: str) -> Any:
        """Import a file of this page."""
        return importlib.import_module(name)

    async def sql(self, statements: str) -> None:
        """Run statements in the page's database."""
        db = await asyncpg.connect(self.dsn)
        try:
            await db.execute(statements)
        finally:
            await db.close()

    async def value(self, query: str) -> Any:
        """The first value *query* gives, in a transaction of its own."""
        db = await asyncpg.connect(self.dsn)
        try:
            return await db.fetchval(query)
        finally:
            await db.close()

    async def eventually(self, query: str) -> Any:
        """Wait until the first value of *query* is true."""
        return await eventually_async(lambda: self.value(query))

    async def serve(self, app: Any) -> httpx.AsyncClient:
        """A client of *app*, which runs, lifespan and all, until the page ends."""
        running = await self.stack.enter_async_context(
            LifespanManager(app, startup_timeout=20, shutdown_timeout=20)
        )
        transport = httpx.ASGITransport(running.app)
        return await self.stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://app")
        )

    # Commands.

    async def _run_console(self, block: Block) -> None:
        parts = re.split(r"^\$ (.*(?:\\\n.*)*)\n", block.code, flags=re.MULTILINE)
        assert not parts[0].strip(), f"{self.path}:{block.line}: output without a command"
        for command, expected in zip(parts[1::2], parts[2::2], strict=True):
            where = f"{self.path}:{block.line}: $ {command}"
            said = await self._command(command)
            assert _fits(said, expected), f"{where}\nsaid\n{said}\nand not\n{expected}"

    async def _command(self, command: str) -> str:
        words = shlex.split(command.replace("\\\n", " "), comments=True)
        if words[0] == "export":
            name, _, value = words[1].partition("=")
            self._environment[name] = self.dsn if "postgresql://" in value else value
            return ""
        if words[0] == "uvicorn":
            await self.stack.enter_async_context(self._uvicorn(words))
            return ""
        if words[0] == "curl":
            return await self._curl(words[1:])
        if words[0] == "pip":
            return ""
        python = Path(sys.executable)
        if words[0] == "python":
            words[0] = str(python)
        with anyio.fail_after(COMMAND):
            done = await anyio.run_process(
                words, cwd=self.folder, env=self._env(), check=False, stderr=subprocess.STDOUT
            )
        said = done.stdout.decode()
        assert done.returncode == 0, f"{self.path}: $ {command} exits with {done.returncode}\n{said}"
        return said

    def _env(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        own = {"ASYNCJOBS_DSN": self.dsn, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        return {**os.environ, **own, **self._environment}

    @asynccontextmanager
    async def _uvicorn(self, words: list[str]) -> AsyncIterator[None]:
        command = [sys.executable, "-m", "uvicorn", *words[1:], "--port", str(self.port)]
        log = (self.folder / "uvicorn.log").open("w+")
        starting = subprocess.Popen(command, cwd=self.folder, env=self._env(), stdout=log, stderr=log)  # noqa: ASYNC220
        with log, starting as server:
            try:
                await eventually_async(lambda: self._serves(server))
                yield
                server.terminate()
                with anyio.fail_after(20):
                    await anyio.to_thread.run_sync(server.wait)
            finally:
                server.kill()

    async def _serves(self, server: subprocess.Popen[bytes]) -> bool:
        if server.poll() is not None:
            raise AssertionError(f"uvicorn ended: {(self.folder / 'uvicorn.log').read_text()}")
        try:
            await (await anyio.connect_tcp("127.0.0.1", self.port)).aclose()
        except OSError:
            return False
        return True

    async def _curl(self, words: list[str]) -> str:
        """`curl [-X METHOD] URL`, with the port of this page's server for 8000."""
        method = words[words.index("-X") + 1] if "-X" in words else "GET"
        url = words[-1].replace("localhost:8000", f"127.0.0.1:{self.port}")
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            answer = await client.request(method, url)
        return answer.text + "\n"


def _fits(said: str, expected: str) -> bool:
    """Whether a command said what the page says; a page may leave all of it out."""
    if not expected.strip():
        return True
    pattern = r".*?".join(re.escape(part) for part in expected.strip().split("…"))
    return re.fullmatch(pattern, said.strip(), re.DOTALL) is not None


@asynccontextmanager
async def run_page(path: Path, dsn: str, folder: Path, monkeypatch: Any) -> AsyncIterator[Page]:
    """*path*, ready to run, on an empty registry: what a page defines is known to it alone."""
    monkeypatch.setattr(registry, "_kinds", {})
    monkeypatch.setattr(subscribing, "_subscriptions", {})
    monkeypatch.setenv("ASYNCJOBS_DSN", dsn)
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    async with AsyncExitStack() as stack:
        page = Page(path, dsn, folder, stack)
        sys.modules[page.module.__name__] = page.module
        try:
            yield page
        finally:
            await stack.aclose()
            for name in set(sys.modules) - before:
                file = getattr(sys.modules[name], "__file__", None)
                if name == page.module.__name__ or (file and Path(file).is_relative_to(folder)):
                    del sys.modules[name]
