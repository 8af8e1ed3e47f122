"""Files that mean harm to whoever reads them; each is made in memory from a few lines."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

_TYPES = (
    '<?xml version="1.0"?>'
    '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" '
    'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="xml" ContentType="application/xml"/>{}</Types>'
)
_PART = (
    '<Override PartName="{}" ContentType="application/vnd.openxmlformats-officedocument.{}+xml"/>'
)
_LINKS = (
    '<?xml version="1.0"?><Relationships '
    'xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{}</Relationships>'
)
_LINK = (
    '<Relationship Id="r1" Target="{}" '
    'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/{}"/>'
)
_WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_SHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_SLIDES = "http://schemas.openxmlformats.org/presentationml/2006/main"
_DRAWN = "http://schemas.openxmlformats.org/drawingml/2006/main"
_R = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
LAUGH = (
    '<!DOCTYPE l [<!ENTITY a "lollollol">'
    + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9))
    + "]>"
)
OUTSIDE = '<!DOCTYPE l [<!ENTITY x SYSTEM "file:///etc/passwd">]>'


def zipped(parts: dict[str, str | bytes]) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as into:
        for name, data in parts.items():
            into.writestr(name, data)
    return archive.getvalue()


def paragraph(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def docx(body: str, head: str = "", links: str = "") -> bytes:
    return zipped({
        "[Content_Types].xml": _TYPES.format(
            _PART.format("/word/document.xml", "wordprocessingml.document.main")
        ),
        "_rels/.rels": _LINKS.format(_LINK.format("word/document.xml", "officeDocument")),
        "word/_rels/document.xml.rels": _LINKS.format(links),
        "word/document.xml": f'<?xml version="1.0"?>{head}<w:document xmlns:w="{_WORD}" '
        f'xmlns:r="{_R}"><w:body>{body}</w:body></w:document>',
    })  # fmt: skip


def xlsx(sheet: str, head: str = "") -> bytes:
    return zipped({
        "[Content_Types].xml": _TYPES.format(
            _PART.format("/xl/workbook.xml", "spreadsheetml.sheet.main")
            + _PART.format("/xl/worksheets/sheet1.xml", "spreadsheetml.worksheet")
        ),
        "_rels/.rels": _LINKS.format(_LINK.format("xl/workbook.xml", "officeDocument")),
        "xl/_rels/workbook.xml.rels": _LINKS.format(
            _LINK.format("worksheets/sheet1.xml", "worksheet")
        ),
        "xl/workbook.xml": f'<workbook xmlns="{_SHEET}" xmlns:r="{_R}"><sheets>'
        '<sheet name="s" sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/worksheets/sheet1.xml": f'{head}<worksheet xmlns="{_SHEET}">{sheet}</worksheet>',
    })  # fmt: skip


def pptx(text: str, head: str = "") -> bytes:
    kinds = (("presentation", "presentation.main"), ("slides/slide1", "slide"))
    return zipped({
        "[Content_Types].xml": _TYPES.format(
            "".join(_PART.format(f"/ppt/{n}.xml", f"presentationml.{kind}") for n, kind in kinds)
        ),
        "_rels/.rels": _LINKS.format(_LINK.format("ppt/presentation.xml", "officeDocument")),
        "ppt/_rels/presentation.xml.rels": _LINKS.format(
            _LINK.format("slides/slide1.xml", "slide")
        ),
        "ppt/presentation.xml": f'<p:presentation xmlns:p="{_SLIDES}" xmlns:r="{_R}"><p:sldIdLst>'
        '<p:sldId id="256" r:id="r1"/></p:sldIdLst></p:presentation>',
        "ppt/slides/slide1.xml": f'<?xml version="1.0"?>{head}<p:sld xmlns:p="{_SLIDES}" '
        f'xmlns:a="{_DRAWN}"><p:cSld><p:spTree><p:sp><p:nvSpPr><p:cNvPr id="2" name="t"/>'
        f"<p:cNvSpPr/><p:nvPr/></p:nvSpPr><p:spPr/><p:txBody><a:p><a:r><a:t>{text}</a:t>"
        "</a:r></a:p></p:txBody></p:sp></p:spTree></p:cSld></p:sld>",
    })  # fmt: skip


def pdf(*objects: bytes, more: bytes = b"") -> bytes:
    """A file of numbered objects, the first of which is its root."""
    out, places = b"%PDF-1.4\n", list[int]()
    for number, body in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    size, at = len(objects) + 1, len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n%s" % (size, table)
    return out + b"trailer<</Size %d/Root 1 0 R%s>>\nstartxref\n%d\n%%%%EOF" % (size, more, at)


def stream(data: bytes, more: bytes = b"") -> bytes:
    return b"<</Length %d%s>>stream\n%s\nendstream" % (len(data), more, data)


def page(content: bytes, *more: bytes, resources: bytes = b"<<>>") -> bytes:
    return pdf(
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Resources%s/Contents 4 0 R>>" % resources,
        content,
        *more,
    )


def lying() -> bytes:
    """An archive whose directory says that nine megabytes are ten bytes."""
    archive = bytearray(docx(paragraph("x" * 9_000_000)))
    at = archive.find(b"PK\1\2")
    while at >= 0:
        archive[at + 24 : at + 28] = struct.pack("<I", 10)
        at = archive.find(b"PK\1\2", at + 4)
    return bytes(archive)


def encrypted() -> bytes:
    archive = bytearray(docx(paragraph("x")))
    for mark, flag in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = archive.find(mark)
        while at >= 0:
            archive[at + flag] |= 1
            at = archive.find(mark, at + 4)
    return bytes(archive)


def link_to(target: str) -> str:
    return f'<Relationship Id="r9" Target="{target}" TargetMode="External" Type="{_R}/image"/>'


_IMAGE = (
    '<w:p><w:r><w:drawing><a:blip xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
    'r:link="r9"/></w:drawing></w:r></w:p>'
)
_PIXELS = zlib.compress(b"BT (x) Tj ET\n" * 3_000_000, 9)
_FORMS = b"<</XObject<</F 5 0 R>>>>"
_FORM = b"/Type/XObject/Subtype/Form/BBox[0 0 9 9]/Resources" + _FORMS
_TREE = [b"<</Type/Pages/Kids[%d 0 R %d 0 R]/Count 9>>" % (n + 1, n + 1) for n in range(2, 40)]
FAR = '<sheetData><row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData>'

FILES: dict[str, bytes] = {
    "far.xlsx": xlsx(FAR),
    "laugh.docx": docx(paragraph("&j;"), LAUGH),
    "outside.docx": docx(paragraph("&x;"), OUTSIDE),
    "laugh.xlsx": xlsx(f"{FAR[:11]}&j;</sheetData>", LAUGH),
    "laugh.pptx": pptx("&j;", LAUGH),
    "outside.pptx": pptx("&x;", OUTSIDE),
    "outside.xlsx": xlsx(f"{FAR[:11]}&x;</sheetData>", OUTSIDE),
    "linked.docx": docx(_IMAGE, links=link_to("file:///etc/passwd")),
    "linked to a host.docx": docx(_IMAGE, links=link_to("http://169.254.169.254/latest")),
    "deep.docx": docx("<w:tbl><w:tr><w:tc>" * 3000 + "</w:tc></w:tr></w:tbl>" * 3000),
    "climbing.pptx": zipped({"[Content_Types].xml": _TYPES.format(""), "../../evil": "x"}),
    "many.docx": zipped({f"f{number}": "" for number in range(12_000)}),
    "nested.docx": zipped({"a.zip": zipped({"b": b"\0" * 70_000_000})}),
    "huge.docx": zipped({"b": b"\0" * 70_000_000}),
    "lying.docx": lying(),
    "encrypted.docx": encrypted(),
    "empty.docx": b"",
    "half.docx": docx(paragraph("x"))[:300],
    "old.xlsx": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
    "loop.pdf": pdf(b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[2 0 R 2 0 R]/Count 2>>"),
    "doubling.pdf": pdf(b"<</Type/Catalog/Pages 2 0 R>>", *_TREE, b"<</Type/Page>>"),
    "brackets.pdf": page(stream(b"[" * 100_000)),
    "form in itself.pdf": page(stream(b"/F Do " * 10), stream(b"/F Do " * 10, _FORM),
                               resources=_FORMS),
    "length of itself.pdf": page(b"<</Length 4 0 R>>stream\nx\nendstream"),
    "table in itself.pdf": b"%PDF-1.4\ntrailer<</Root 1 0 R/Prev 9>>\nstartxref\n9\n%%EOF",
    "large stream.pdf": page(stream(_PIXELS, b"/Filter/FlateDecode")),
    "script.pdf": pdf(b"<</Type/Catalog/Pages 2 0 R/OpenAction<</S/JavaScript/JS(app.alert(1))>>>>",
                      b"<</Type/Pages/Kids[]/Count 0>>"),
    "locked.pdf": pdf(b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[]/Count 0>>",
                      more=b"/ID[(x)(x)]/Encrypt<</Filter/Standard/V 1/R 2/P -1/O(%s)/U(%s)>>"
                      % (b"o" * 32, b"u" * 32)),
    "empty.pdf": b"",
    "half.pdf": page(stream(b"x"))[:80],
    "both.pdf": b"PK\3\4" + page(stream(b"BT (x) Tj ET")),
    "deep.html": b"<div>" * 100_000,
    "tables.html": b"<table><tr><td>" * 5_000,
    "lists.html": b"<ul><li>" * 20_000,
    "comments.html": b"<!-" * 300_000,
    "ends.html": b"</" * 500_000,
    "sections.html": b"<![a" * 250_000,
    "declarations.html": b"<!a [" * 200_000,
    "instructions.html": b"<?" * 500_000,
    "starts.html": b"<a " * 300_000,
    "quotes.html": b'<a b="' * 150_000,
    "scripts.html": b"<script>" + b"</s" * 300_000,
    "names.html": b"<a " + b"x=1 " * 100_000 + b">y</a>",
    "large picture.png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\xff" * 8 + bytes(40),
    "gzip.md": b"\x1f\x8b" + zlib.compress(bytes(1_000_000)),
    "nul.md": b"a\0b",
    "ansi.md": b"\x1b]0;title\x07\x1b[2J\r\nX-Injected: 1",
}  # fmt: skip
