"""How long the viewer's page takes to open in headless Chromium: with 10,000 episodes, and with 100 for comparison.

    python benchmarks/view_page.py            # needs chromium on the path, or named by $CHROMIUM
    python benchmarks/view_page.py --quick --out view_page.json

Times are from the start of the navigation to the page's file: to the list on the screen, to the newest episode drawn,
to the whole page read; and from a click to another episode drawn. Each is the median of the repeats, whose caches are
those of one browser that has opened the page before (the first opening of all is given beside it).
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # for the invented logs and the browser of the tests

from tests.browser.devtools import Browser, find_chromium  # noqa: E402
from tests.episode_logs import invent_episodes, write_log  # noqa: E402
from verl_multiattempt import view  # noqa: E402

SIZES = (100, 10_000)
NUM_STEPS = 200
SHOWN_S = """(async () => {
  const start = performance.now();
  const before = document.querySelector('#episode h2');
  select(ROW);
  while (document.querySelector('#episode h2') === before) await new Promise((resolve) => setTimeout(resolve, 1));
  return performance.now() - start;
})()"""


def make_page(folder: Path, num_episodes: int, num_words: int) -> tuple[Path, float]:
    """A page of invented episodes, and the seconds that the viewer took for it."""
    write_log(folder, invent_episodes(num_episodes, num_steps=NUM_STEPS, num_words=num_words))
    parser = argparse.ArgumentParser()
    view.add_arguments(parser)
    start = time.perf_counter()
    if view.run(parser.parse_args([str(folder)])):
        raise SystemExit("the page could not be written")
    return folder / view.PAGE_NAME, time.perf_counter() - start


def open_ms(browser: Browser, page: Path) -> dict[str, float]:
    """Milliseconds to what a user waits for."""
    browser.open(page)
    browser.wait("document.querySelector('#episode h2')")
    return {
        "list drawn": float(browser.evaluate("document.documentElement.dataset.listDrawnMs")),
        "page read": browser.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"),
        "episode shown": browser.evaluate(SHOWN_S.replace("ROW", "Math.floor(INDEX.rows.step.length / 2)")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--words", type=int, default=250, help="words of an attempt (default: 250)")
    parser.add_argument("--quick", action="store_true", help="100 and 1,000 episodes, 2 repeats")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args()
    sizes, args.repeats = ((100, 1_000), 2) if args.quick else (SIZES, args.repeats)
    figures: dict[int, dict[str, Any]] = {}
    executable = find_chromium()
    if executable is None:
        raise SystemExit("chromium must be on the path. Install Debian's package, or name one in $CHROMIUM.")
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            page, seconds = make_page(Path(folder) / str(size), size, args.words)
            with Browser(executable) as browser:
                runs = [open_ms(browser, page) for _ in range(args.repeats + 1)]
            log_mb = sum(file.stat().st_size for file in page.parent.glob("*.jsonl")) / 1e6
            print(f"{size:,} episodes: log {log_mb:.1f} MB, page {page.stat().st_size / 1e6:.1f} MB, "
                  f"made in {seconds:.1f} s")  # fmt: skip
            figures[size] = {"log_mb": log_mb, "page_bytes": page.stat().st_size, "made_s": seconds}
            for name in runs[0]:
                median = statistics.median(run[name] for run in runs[1:])
                figures[size][f"{name}, ms"] = {"median": median, "first": runs[0][name]}
                print(f"  {name:14}{median:7.0f} ms   (first time {runs[0][name]:.0f} ms)")
    fewest, *_, most = (row["list drawn, ms"]["median"] for row in figures.values())
    print(f"list drawn, {max(figures):,} : {min(figures):,} episodes: {most / fewest:.2f}x")
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
