"""What drives the lab in tests: the server as a child process, and a page as a reader uses it."""

import re
import subprocess
import sys
from ast import literal_eval

# This interpreter as it was started: without site packages of its own if it has none.
PYTHON = [sys.executable, *(["-S"] if sys.flags.no_site else [])]
# The command as a reader has it, and an alarm: a socket that leads off this machine is refused and told.
OWN_MACHINE_ONLY = """
import sys
HERE = {None, "", "127.0.0.1", "localhost", "::1", b"127.0.0.1", b"localhost", b"::1", "192.0.2.1"}
def alarm(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None
    else:
        return
    if host not in HERE:
        print("a socket to outside:", event, host, file=sys.stderr, flush=True)
        raise PermissionError(host)
sys.addaudithook(alarm)
from bptt.cli import main
sys.exit(main(sys.argv[1:]))
"""
LAB = [*PYTHON, "-c", OWN_MACHINE_ONLY, "lab", "--no-open"]
# The first page imports torch, and another test may hold the machine.
PATIENCE = 60_000  # ms
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}


def start(*words, command=LAB, **options):
    """``bptt lab`` in a child process; returns it and the address it says.

    Args:
        options: of ``subprocess.Popen``.
    """
    child = subprocess.Popen(
        [*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    line = child.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+/\S*", line)
    if not found:
        child.kill()
        raise RuntimeError(f"no address in {line!r}: {child.communicate()[1]}")
    return child, found[0]


class LabPage:
    """A page of the lab as a reader uses it, by keyboard; what it did wrong is in ``faults``."""

    def __init__(self, context, address, slug, *, scheme="light", size="desktop", query=""):
        self.context = context
        self.page = context.new_page()
        self.faults, self.requests = [], []
        self.look(scheme, size)
        self.page.set_default_timeout(PATIENCE)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.faults.append(f"page error: {error}"))
        self.page.on("requestfailed", self._failed)
        # The context sees what its workers ask for too.
        self._listener = lambda request: self._asked(request.url)
        context.on("request", self._listener)
        self.page.on("websocket", lambda socket: self._asked(socket.url))
        self.own = re.compile(rf"(http|ws)://{re.escape(address.split('/')[2])}/|data:|blob:")
        self.page.goto(f"{address}{slug}{'/' if slug else ''}{query}")

    def look(self, scheme, size):
        """Light or dark, at a desk or on a phone."""
        width, height = SIZES[size]
        self.page.emulate_media(color_scheme=scheme)
        self.page.set_viewport_size({"width": width, "height": height})

    def close(self):
        """Close it; it hears no more."""
        self.context.remove_listener("request", self._listener)
        self.page.close()

    def _console(self, message):
        if message.type == "error":
            self.faults.append(f"console error: {message.text}")

    def _failed(self, request):
        # Whoever leaves a page or gets a newer answer aborts what was under way.
        if "ERR_ABORTED" not in (request.failure or ""):
            self.faults.append(f"failed: {request.url} {request.failure}")

    def _asked(self, url):
        self.requests.append(url)
        if not self.own.match(url):
            self.faults.append(f"a request to outside: {url}")

    def wait(self, name):
        """Wait until the page shows a value of this name for the first time."""
        self.page.locator(f'[data-value="{name}"]').wait_for(state="attached")
        return self

    def value(self, name):
        """What the page shows under this name, to the last digit."""
        return literal_eval(self.page.locator(f'[data-value="{name}"]').text_content())

    def press(self, control, key, times=1, *, changes):
        """Put the focus on a control and press a key; wait until the value named ``changes`` moved.

        Returns:
            the new value.
        """
        before = self.page.locator(f'[data-value="{changes}"]').text_content()
        box = self.page.locator(f'[data-control="{control}"]')
        handle = box.locator('[role="slider"], [role="radio"][tabindex="0"], input, select').first
        for _ in range(times):
            handle.press(key)
        return self._moved(changes, before)

    def choose(self, control, option, *, changes):
        """Choose one of a radio group by its words; returns the value named ``changes``."""
        before = self.page.locator(f'[data-value="{changes}"]').text_content()
        box = self.page.locator(f'[data-control="{control}"]')
        box.get_by_role("radio", name=option, exact=True).press("Space")
        return self._moved(changes, before)

    def click(self, control, button):
        """Press a button by its words, on the keyboard."""
        box = self.page.locator(f'[data-control="{control}"]')
        box.get_by_role("button", name=button, exact=True).press("Enter")

    def begin_again(self):
        """Press Start again, and wait until the work has begun anew."""
        self.page.evaluate(
            """() => {
                window.begun = false;
                const watch = new MutationObserver(() => {
                    const state = document.querySelector('[data-value="state"]')?.textContent;
                    window.begun = window.begun || state === "'running'";
                });
                watch.observe(document.body, {childList: true, subtree: true, characterData: true});
            }"""
        )
        self.click("run", "Start again")
        self.page.wait_for_function("() => window.begun")

    def covered(self, control):
        """Whether something floats over a slider's label while its thumb has the focus and moves."""
        handle = self.page.locator(f'[data-control="{control}"] [role="slider"]').first
        handle.focus()
        handle.press("ArrowRight")
        handle.hover()
        self.page.wait_for_timeout(400)  # a bubble comes after a moment
        return self.page.evaluate(
            """() => [...document.querySelectorAll('[data-radix-popper-content-wrapper]')]
                .some(e => e.getBoundingClientRect().width > 0)"""
        )

    def pick(self, control, option, *, changes):
        """Pick one of a dropdown by its words; returns the value named ``changes``."""
        before = self.page.locator(f'[data-value="{changes}"]').text_content()
        self.page.locator(f'[data-control="{control}"] select').select_option(label=option)
        return self._moved(changes, before)

    def _moved(self, name, before):
        self.page.wait_for_function(
            """([name, before]) => {
                const found = document.querySelector(`[data-value="${name}"]`);
                return found && found.textContent !== before;
            }""",
            arg=[name, before],
        )
        return self.value(name)

    def reach(self, name, least):
        """Wait until a number is at least so large."""
        self.page.wait_for_function(
            """([name, least]) => {
                const found = document.querySelector(`[data-value="${name}"]`);
                return found && Number(found.textContent) >= least;
            }""",
            arg=[name, least],
        )

    def settle(self, name, wanted, timeout=PATIENCE):
        """Wait until a value is the one wanted; fails with both if it does not come in time, ms."""
        try:
            self.page.wait_for_function(
                """([name, wanted]) =>
                    document.querySelector(`[data-value="${name}"]`)?.textContent === wanted""",
                arg=[name, repr(wanted)],
                timeout=timeout,
            )
        except Exception:
            raise AssertionError(f"{name}: {self.value(name)!r}, expected {wanted!r}") from None

    def overflow(self):
        """By how many pixels the page is wider than the screen."""
        return self.page.evaluate(
            """() => {
                const wide = [...document.querySelectorAll('*')].map(
                    e => /auto|scroll/.test(getComputedStyle(e).overflowX)
                        ? e.scrollWidth - e.clientWidth : 0);
                const root = document.documentElement;
                return Math.max(root.scrollWidth - root.clientWidth, ...wide);
            }"""
        )

    def whole(self):
        """Make the window as high as the page, so that a picture shows all of it."""
        height = self.page.evaluate(
            """() => Math.max(...[...document.querySelectorAll('*')].map(e => e.scrollHeight))"""
        )
        width = self.page.viewport_size["width"]
        self.page.set_viewport_size({"width": width, "height": min(height + 20, 8000)})
        return self
