"""
HTML, as a browser reads it, and text that is not HTML.
"""

from html.parser import HTMLParser

HOSTILE = "<script>alert(\"1\")</script>&amp;' onload='x' \u202e\x00"


class Seen(HTMLParser):
    """
    The tags of an HTML text with their attributes, and its text.
    """

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data
