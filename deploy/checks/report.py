"""What a check found: one line each, and how it all ended."""

import time
import traceback


class Skip(Exception):
    """Something that a check needs cannot be had."""


class Report:
    def __init__(self):
        self.good = self.failed = self.skipped = 0

    def check(self, name, work, *args):
        """Runs `work`, which gives a note, or fails by an exception. Gives what it gave, or None."""
        began = time.monotonic()
        try:
            note = work(*args)
        except Skip as why:
            self.skipped += 1
            print(f"SKIPPED {name}: {why}", flush=True)
            return None
        except Exception as why:  # whatever it is, it is a finding
            self.failed += 1
            detail = str(why) if isinstance(why, (AssertionError, Findings)) else traceback.format_exc()
            print(f"FAILED  {name}: {detail}", flush=True)
            return None
        self.good += 1
        print(f"good    {name}: {note} ({time.monotonic() - began:.1f} s)", flush=True)
        return note

    def close(self):
        """Tells the end in one line; the exit code."""
        print(f"deployment checks: {self.good} passed, {self.failed} failed, {self.skipped} skipped")
        return 1 if self.failed else 0


class Findings(Exception):
    """All that a check found wrong, at once."""

    def __init__(self, found):
        super().__init__("".join(f"\n    {one}" for one in found))


def none(found):
    """Fails with all findings at once."""
    found = list(found)
    if found:
        raise Findings(found)
