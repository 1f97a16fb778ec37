"""Folders of images, and the files of Fashion-MNIST."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from random import Random

from .family import Family, Mutant, Wrong, refused
from .mutate import bytes_of

FORMATS = (
    "PNG",
    "JPEG",
    "GIF",
    "BMP",
    "TIFF",
    "WEBP",
    "PPM",
    "ICO",
    "TGA",
    "PCX",
    "SGI",
    "IM",
    "MSP",
    "JPEG2000",
    "DDS",
    "QOI",
    "AVIF",
    "ICNS",
    "XBM",
)
OTHERS = {  # formats that Pillow opens by running a program, by reading other files, or slowly
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(evil-ran) (w) file "
    b"closefile\nshowpage\n"
    b"%%EOF\n",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='8' height='8'/>",
    "pdf": b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<</Root 1 0 R>>",
    "text": b"not an image\n",
    "nothing": b"",
    "zeros": bytes(5_000),
    "xpm": b'/* XPM */\nstatic char *x[] = {\n"8 8 1 1",\n"a c #000000",\n'
    + b'"aaaaaaaa",\n' * 8
    + b"};",
    "fits": b"SIMPLE  =                    T"
    + b" " * 50
    + b"BITPIX  =                    8"
    + b" " * 50
    + b"END"
    + b" " * 2_700,
}
NAMES = (
    "x.png",
    "x.PNG",
    "x.jpg",
    "x.png.png",
    ".x.png",
    "x y.png",
    "é.png",
    "x\n.png",
    "x\udcff.png",
    "[red].png",
    "-x.png",
    "x.eps",
    "x.tif",
    "x.pdf",
    "x.h5",
    "x.txt",
    "x",
    "a" * 200 + ".png",
    "x.png~",
    "\u202ex.png",
)
HUGE = (0, 1, 2**15, 2**16, 2**31 - 1, 2**32 - 1, 9_000, 13_000, 20_000, 100_000)


class Images(Family):
    """A folder of two classes in train and test, with one file changed."""

    name = "images"

    def make(self, seed: Path) -> None:
        """Write an image in every format that Pillow can write, and Fashion-MNIST's four files with
        a few images.
        """
        import numpy as np
        from PIL import Image

        pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
        for name in FORMATS:
            for mode in ("RGB", "L", "1"):
                try:
                    Image.fromarray(pixels).convert(mode).save(
                        seed / f"{mode}.{name.lower()}", name
                    )
                    break
                except (
                    OSError,
                    KeyError,
                    ValueError,
                ):  # the format does not have this mode, or Pillow was built without the format
                    (seed / f"{mode}.{name.lower()}").unlink(missing_ok=True)
        for mode in ("P", "RGBA", "I;16", "LA"):
            Image.fromarray(pixels[:, :, 0] if mode == "I;16" else pixels).convert(mode).save(
                seed / f"{mode.replace(';', '')}.png"
            )
        with Image.open(seed / "RGB.png") as image:
            image.save(seed / "deflated.tiff", compression="tiff_adobe_deflate")
            image.save(seed / "progressive.jpeg", progressive=True, exif=image.getexif())
        for name, data in OTHERS.items():
            (seed / f"{name}.other").write_bytes(data)
        raw = seed / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        for part, count in (("train", 20), ("t10k", 5)):
            (raw / f"{part}-images-idx3-ubyte").write_bytes(
                struct.pack(">4i", 0x803, count, 28, 28) + bytes(range(196)) * 4 * count
            )
            (raw / f"{part}-labels-idx1-ubyte").write_bytes(
                struct.pack(">2i", 0x801, count) + bytes(n % 10 for n in range(count))
            )

    def begin(self, seed: Path) -> None:
        """Write the folder and check that it can be read."""
        self.files = {
            path.name: path.read_bytes()
            for path in sorted(seed.iterdir())
            if path.is_file() and path.suffix
        }
        self.raw = {
            path.name: path.read_bytes()
            for path in sorted((seed / "FashionMNIST" / "raw").iterdir())
        }
        self.root = self.work / "photos"
        for part in ("train", "test"):
            for number, label in enumerate(("a", "b")):
                (self.root / part / label).mkdir(parents=True, exist_ok=True)
                for count in range(2 if part == "train" else 1):
                    (self.root / part / label / f"{count}.png").write_bytes(
                        self.files[("RGB.png", "P.png")[number]]
                    )
        (self.work / "FashionMNIST" / "raw").mkdir(parents=True, exist_ok=True)
        for name, data in self.raw.items():
            (self.work / "FashionMNIST" / "raw" / name).write_bytes(data)
        if self._folder() or self._fashion():
            raise Wrong("the seeds are refused")

    def mutant(self, rng: Random) -> Mutant:
        """Return a changed image, sometimes with an odd name, or a changed file of Fashion-MNIST."""
        if rng.random() < 0.1:
            name = rng.choice(list(self.raw))
            head = (
                bytes_of(rng, self.raw[name][:16]) + self.raw[name][16:]
                if rng.random() < 0.7
                else bytes_of(rng, self.raw[name])
            )
            return {f"fashion/{name}": head}
        common = [
            name
            for name in self.files
            if name.endswith((".png", ".jpeg", ".tiff", ".webp", ".gif", ".bmp", ".other"))
        ]
        data = self.files[rng.choice(common if rng.random() < 0.7 else list(self.files))]
        if data[:4] == b"\x89PNG" and rng.random() < 0.5:
            data = png_of(rng, data)
        elif rng.random() < 0.3:
            at = rng.randrange(min(60, len(data) + 1))
            size = (
                struct.pack(rng.choice(("<I", ">I")), rng.choice(HUGE) % 2**32)
                if rng.random() < 0.5
                else struct.pack(rng.choice(("<H", ">H")), rng.choice(HUGE) % 2**16)
            )
            data = data[:at] + size + data[at + len(size) :]
        elif rng.random() < 0.95:
            data = bytes_of(rng, data, self.files[rng.choice(list(self.files))])
        name = rng.choice(NAMES) if rng.random() < 0.2 else "0.png"
        return {f"train/a/{name}".encode(errors="surrogatepass").decode("latin-1"): data}

    def read(self, mutant: Mutant) -> bool:
        """Read the whole folder, once as it is and once without unreadable files."""
        ((name, data),) = mutant.items()
        if name.startswith("fashion/"):
            path, whole = self.work / "FashionMNIST" / "raw" / name[8:], self.raw[name[8:]]
            path.write_bytes(data)
            try:
                return self._fashion()
            finally:
                path.write_bytes(whole)
        path = self.root / os.fsdecode(
            name.encode("latin-1").decode(errors="surrogatepass").encode(errors="surrogateescape")
        )
        old = path.read_bytes() if path.exists() else None
        try:
            path.write_bytes(data)
        except OSError:  # the file system does not allow this name
            return True
        try:
            return self._folder()
        finally:
            path.unlink() if old is None else path.write_bytes(old)

    def _folder(self) -> bool:
        from lissom.data.data import Data

        spec = f"folder:{self.root}"
        return any(
            [
                refused(lambda: Data.of(spec).example(2)),
                refused(lambda: Data.of(spec, skip_bad=True, channels=1, size=(8, 8))),
            ]
        )

    def _fashion(self) -> bool:
        from lissom.data.data import Data

        return refused(lambda: Data.of("fashion-mnist", root=self.work))


def png_of(rng: Random, data: bytes) -> bytes:
    """Return a PNG file with a changed chunk and a correct checksum, so that no reader stops early."""
    chunks, at = [], 8
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    place = rng.choice((0, 0, rng.randrange(len(chunks))))
    kind, body = chunks[place]
    if place == 0:
        side = struct.pack(">I", rng.choice(HUGE) % 2**32)
        body = rng.choice(
            (
                side + body[4:],
                body[:4] + side + body[8:],
                side + side + body[8:],
                body[:8]
                + bytes([rng.choice((0, 1, 2, 4, 8, 16, 255)), rng.randrange(8)])
                + body[10:],
                bytes_of(rng, body),
            )
        )
    elif rng.random() < 0.3:
        text = zlib.compress(b"a" * rng.choice((10, 10**4, 10**6)))
        kind, body = rng.choice(
            (
                (b"zTXt", b"k\0\0" + text),
                (b"iCCP", b"k\0\0" + text),
                (b"tEXt", b"k\0" + b"a" * 1000),
                (b"iTXt", b"k\0\1\0\0\0" + text),
                (b"tRNS", body[:9]),
                (b"acTL", struct.pack(">2I", rng.choice(HUGE) % 2**32, 0)),
                (b"PLTE", body),
                (b"gAMA", body[:4]),
            )
        )
        chunks.insert(1, (kind, body))
        kind, body = chunks[place]
    else:
        body = bytes_of(rng, body)
    chunks[place] = (kind, body)
    return data[:8] + b"".join(
        struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks
    )
