from cluster.visible import escape, visible


def test_visible_text_cannot_steer_a_terminal() -> None:
    assert visible("\x1b[2J\x07a\tb\nc\r\x7f\x9b1m") == "␛[2J␇a\tb\nc␍␡\ufffd1m"


def test_visible_text_keeps_all_other_characters() -> None:
    text = "Über 三国 \U0001f600 <|endoftext|> \u2028 \u00a0"
    assert visible(text) == text


def test_escaped_text_is_no_markup() -> None:
    assert escape('<a href="x">\'&\x00\ud800</a>') == "&lt;a href=&quot;x&quot;&gt;&#x27;&amp;␀\ufffd&lt;/a&gt;"
