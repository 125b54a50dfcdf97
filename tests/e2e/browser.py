"""A headless Chromium, driven over a pipe in its DevTools protocol.

Only the standard library and the browser: Selenium and a matching driver would be two packages more, for the
distribution's own Python alone, and would not show every request.
"""
import base64
import fcntl
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

FLAGS = """--headless --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --disable-default-apps --disable-extensions
    --disable-breakpad --disable-crash-reporter --disable-dev-shm-usage --no-default-browser-check
    --force-color-profile=srgb --hide-scrollbars --remote-debugging-pipe about:blank""".split()

# The browser reads commands from descriptor 3 and writes to 4.
PIPES = ("import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
         "os.execvp(sys.argv[3], sys.argv[3:])")
KEYS = {
    "Tab": 9, "Enter": 13, "End": 35, "Home": 36,
    "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
}


class BrowserError(Exception):
    pass


class Browser:
    def __init__(self):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs, self.commands = pipe()
        answers, theirs_too = pipe()
        root = ["--no-sandbox"] if os.getuid() == 0 else []
        self.process = subprocess.Popen(
            [sys.executable, "-c", PIPES, str(theirs), str(theirs_too), "chromium", *root,
             f"--user-data-dir={self.profile.name}", *FLAGS],
            pass_fds=(theirs, theirs_too), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True)
        os.close(theirs)
        os.close(theirs_too)
        self.answers = {}
        self.events = queue.SimpleQueue()
        self.arrived = threading.Condition()
        self.n_calls = 0
        self.is_open = True
        threading.Thread(target=self.read, args=(answers,), daemon=True).start()

    def read(self, answers):
        with os.fdopen(answers, "rb") as stream:
            rest = b""
            while chunk := stream.read1(1 << 16):
                *whole, rest = (rest + chunk).split(b"\0")
                for text in whole:
                    self.take(json.loads(text))
        with self.arrived:
            self.is_open = False
            self.arrived.notify_all()

    def take(self, message):
        if "id" not in message:
            self.events.put(message)
            return
        with self.arrived:
            self.answers[message["id"]] = message
            self.arrived.notify_all()

    def call(self, method, session=None, timeout=30, **parameters):
        self.n_calls += 1
        number = self.n_calls
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        with self.arrived:
            self.arrived.wait_for(lambda: number in self.answers or not self.is_open, timeout)
            answer = self.answers.pop(number, None)
        if answer is None:
            raise BrowserError(f"{method}: the browser does not answer")
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']}")
        return answer["result"]

    def close(self):
        """Ends the browser and all that it started."""
        try:
            self.call("Browser.close", timeout=5)
            self.process.wait(5)
        except (BrowserError, OSError, subprocess.TimeoutExpired):
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        os.close(self.commands)
        self.profile.cleanup()


def pipe():
    """Both ends, clear of 3 and 4."""
    ends = []
    for end in os.pipe():
        ends.append(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10))
        os.close(end)
    return ends


class Tab:
    """One page: what it asks for and what it complains of is kept."""

    def __init__(self, browser, width=1600, height=1400, scripts=True, dark=False):
        self.browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.target = target
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.requests, self.complaints = [], []
        for domain in ("Page", "Network", "Runtime", "Log", "Audits"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        self.scheme(dark)
        if not scripts:
            self.call("Emulation.setScriptExecutionDisabled", value=True)

    def call(self, method, **parameters):
        return self.browser.call(method, self.session, **parameters)

    def resize(self, width, height):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)

    def scheme(self, dark):
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def open(self, url):
        found = self.call("Page.navigate", url=url)
        if "errorText" in found:
            raise BrowserError(f"{url}: {found['errorText']}")
        until(lambda: self.run("document.readyState") == "complete")

    def run(self, script):
        """Value of an expression; of a promise, what it comes to."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise BrowserError(f"{script}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def press(self, key):
        for kind in ("rawKeyDown", "keyUp"):
            code = KEYS[key]
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                      windowsVirtualKeyCode=code, nativeVirtualKeyCode=code)

    def click(self, selector):
        """With the mouse, at the middle of the element."""
        box = self.run(f"""(() => {{ const e = document.querySelector({json.dumps(selector)});
            e.scrollIntoView({{block: "center"}}); const b = e.getBoundingClientRect();
            return [b.x + b.width / 2, b.y + b.height / 2] }})()""")
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def listen(self):
        """Takes in what has happened since."""
        while True:
            try:
                event = self.browser.events.get_nowait()
            except queue.Empty:
                return
            method, data = event["method"], event.get("params", {})
            if method == "Network.requestWillBeSent":
                self.requests.append(data["request"]["url"])
            elif method == "Runtime.exceptionThrown":
                self.complaints.append(data["exceptionDetails"])
            elif method == "Log.entryAdded" and data["entry"]["level"] in ("error", "warning"):
                # That pixels are read back is this script's doing.
                if "getImageData" not in data["entry"]["text"]:
                    self.complaints.append(data["entry"])
            elif method == "Runtime.consoleAPICalled" and data["type"] in ("error", "warning", "assert"):
                self.complaints.append(data["args"])
            elif method == "Audits.issueAdded" and "Security" in data["issue"]["code"]:
                self.complaints.append(data["issue"])

    def picture(self, path, whole=False):
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            self.resize(round(size["width"]), min(8000, round(size["height"])))
            time.sleep(0.5)
        found = self.call("Page.captureScreenshot", format="png")
        Path(path).write_bytes(base64.b64decode(found["data"]))

    def close(self):
        self.listen()
        self.browser.call("Target.closeTarget", targetId=self.target)


def until(look, timeout=20):
    """The first thing that `look` finds."""
    start = time.monotonic()
    while time.monotonic() - start < timeout:
        if found := look():
            return found
        time.sleep(0.05)
    raise BrowserError(f"not within {timeout} s")
