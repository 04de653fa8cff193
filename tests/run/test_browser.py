"""What a person sees: TensorBoard on two runs, in a real browser, where there is one."""

import shutil

import pytest

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RUN = ("data=digits", "data.subset=200", "width=4", "depth=8", "recipe.batch=50", "recipe.iterations=8", "threads=1")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser")


@pytest.fixture
def address(command):
    """A TensorBoard on a plain and a residual run with a probe."""
    from tensorboard.program import TensorBoard

    assert command("-m", *RUN, "skip=none,identity", "probe=activations").code == 0
    board = TensorBoard()
    board.configure(argv=[None, "--logdir", "outputs", "--port", "0", "--host", "localhost"])
    return board.launch()


@pytest.fixture
def page():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1600, "height": 1200})
        yield page
        browser.close()


@pytest.mark.filterwarnings("ignore")
def test_a_person_sees_runs_curves_overlay_and_hyperparameters(address, page):
    page.goto(f"{address}#timeseries")
    for text in ("error2 cards", "learning_rate", "probe"):
        page.get_by_text(text, exact=False).first.wait_for()
    for run in ("plain8-batch-s0", "resnet8-identity-batch-s0"):
        page.get_by_text(run, exact=False).first.wait_for()

    page.goto(f"{address}#custom_scalars")
    page.reload()
    page.get_by_text("train and test", exact=False).first.wait_for()
    page.get_by_text("error", exact=True).first.wait_for()

    page.goto(f"{address}#hparams")
    page.reload()
    for column in ("depth", "norm", "skip", "error/test"):
        page.get_by_text(column, exact=False).first.wait_for()
    rows = page.locator("tb-data-table-content-row, vaadin-grid-cell-content, tf-hparams-table-view").first
    rows.wait_for()
