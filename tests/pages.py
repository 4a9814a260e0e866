"""HTML pages as tests read them, and texts that would like to become part of one."""

import html.parser

HOSTILE = (
    "<script>alert(1)</script>",
    '" onerror="alert(1)',
    "' onload='alert(1)",
    "</style></title><img src=x onerror=alert(1)>",
    "<!-- ]]> &lt; $title ${body} {0}",
    "javascript:alert(1)\x00\x1b\ud800",
    "\u202egpj.exe",
)


class Reader(html.parser.HTMLParser):
    """Elements with their attributes, the text, the order of headings; and every tag is closed."""

    def __init__(self, content):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(content)
        self.close()
        assert not self.open

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in ("img", "meta", "input", "wbr"):
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.text += data

    def all(self, name):
        return [attributes for found, attributes in self.elements if found == name]


def shape(content):
    """Names of elements and of their attributes, in order, but for places to break a line."""
    return [
        (name, tuple(attributes)) for name, attributes in Reader(content).elements if name != "wbr"
    ]


def assert_needs_nothing_else(content, pictures="data:image/"):
    """No script, nothing from elsewhere, a policy that says so; URLs are `pictures` or links."""
    reader = Reader(content)
    policy = reader.all("meta")[1]["content"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "script" not in policy
    for name, attributes in reader.elements:
        assert name not in ("script", "link", "iframe", "object", "base", "form")
        assert not [key for key in attributes if key.startswith("on") or key == "style"]
        for key in ("src", "href"):
            assert attributes.get(key, "#").startswith((pictures, "#"))
    style = content.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
