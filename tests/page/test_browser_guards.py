"""What the browser does for us, seen to be done: the policy, the cookie, another site's links."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.page.visitor import Visitor
    from tests.system.running_stack import RunningStack

ELSEWHERE = "http://elsewhere.test/"
"""Another site; its page is made up on the way."""


def test_a_script_that_got_in_does_not_run(open_visitor: Callable[..., Visitor]) -> None:
    visitor = open_visitor("admin_key")
    visitor.page.goto("/batches")
    visitor.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.wasRun = true";
          document.body.append(script);
          const picture = document.createElement("div");
          picture.innerHTML = "<img src=x onerror='window.wasRun = true'>";
          document.body.append(picture);
        }"""
    )
    visitor.page.wait_for_function(
        "() => document.images.length > 0 && document.images[0].complete"
    )
    assert visitor.evaluate("window.wasRun") is None
    assert any("Content Security Policy" in problem for problem in visitor.problems)
    visitor.problems.clear()


def test_scripts_do_not_see_the_cookie(open_visitor: Callable[..., Visitor]) -> None:
    visitor = open_visitor("admin_key")
    visitor.page.goto("/batches")
    assert visitor.evaluate("document.cookie") == ""


def test_a_link_in_a_chat_finds_who_is_signed_in(
    stack: RunningStack, open_visitor: Callable[..., Visitor]
) -> None:
    visitor = open_visitor("admin_key")
    page = visitor.page
    link = f"<a href='{stack.facts['api_url']}/failures?host=node-7'>look at this</a>"
    page.route(f"{ELSEWHERE}**", lambda route: route.fulfill(content_type="text/html", body=link))
    page.goto(ELSEWHERE)
    page.get_by_role("link").click()
    page.get_by_role("heading", name="Failures").wait_for()
    assert page.url.endswith("/failures?host=node-7")
    assert page.get_by_role("textbox", name="Host").input_value() == "node-7"


def test_a_form_of_another_site_does_nothing(
    stack: RunningStack, open_visitor: Callable[..., Visitor]
) -> None:
    visitor = open_visitor("admin_key")
    page = visitor.page
    url = stack.facts["api_url"]
    form = (
        f"<form method='post' action='{url}/sign-out'><button>win</button></form>"
        f"<iframe src='{url}/batches'></iframe>"
    )
    page.route(f"{ELSEWHERE}**", lambda route: route.fulfill(content_type="text/html", body=form))
    page.goto(ELSEWHERE)
    assert page.frames[1].url.startswith("chrome-error:"), "it can be framed"
    page.get_by_role("button", name="win").click()
    page.wait_for_url(f"{url}/**")
    visitor.problems.clear()
    page.goto(f"{url}/batches")
    assert visitor.heading() == "Batches"


def test_who_was_signed_out_elsewhere_sees_it(
    stack: RunningStack, open_visitor: Callable[..., Visitor]
) -> None:
    """A page that keeps itself fresh does not go on as if nothing were."""
    visitor, other = open_visitor(), None
    page = visitor.page
    page.goto("/batches")
    visitor.sign_in(stack.facts["user_key"])
    page.get_by_role("heading", name="Batches").wait_for()
    other = visitor.context.new_page()
    other.goto("/new")
    other.get_by_role("button", name="Sign out").click()
    other.wait_for_url("**/sign-in")
    page.wait_for_url("**/sign-in?next=*")


def test_a_form_beside_what_is_read_anew_is_sent_still(
    open_visitor: Callable[..., Visitor],
) -> None:
    """Told twice to be sent once, it would never be."""
    visitor = open_visitor("admin_key")
    visitor.page.goto("/batches")
    is_held_back = visitor.evaluate(
        """async () => {
          const form = document.createElement("form");
          form.dataset.once = "";
          document.getElementById("content").append(form);
          sendOnce(form.parentElement);
          document.getElementById("batches").append("what is old");
          await freshen(["batches"]);
          const sending = new Event("submit", { cancelable: true });
          form.dispatchEvent(sending);
          return sending.defaultPrevented;
        }"""
    )
    assert is_held_back is False
