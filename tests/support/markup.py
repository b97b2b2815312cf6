"""
HTML, as a browser reads it, and text that is not HTML.
"""

from html.parser import HTMLParser

HOSTILE = "<script>alert(\"1\")</script>&amp;' onload='x' \u202e\x00"


class Seen(HTMLParser):
    """
    What a reader of HTML finds: tags with their attributes, and text.
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
