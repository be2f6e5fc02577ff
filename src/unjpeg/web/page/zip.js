// Pictures in one zip file. They are compressed already, so they are stored as they are.

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

const crc32 = (bytes) => {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ byte) & 0xff];
  return ~crc >>> 0;
};

// MS-DOS date and time: years from 1980, seconds in steps of two.
const dosTime = (date) => [
  (date.getHours() << 11) | (date.getMinutes() << 5) | (date.getSeconds() >> 1),
  (Math.max(0, date.getFullYear() - 1980) << 9) | ((date.getMonth() + 1) << 5) | date.getDate(),
];

/** Little-endian numbers of 2 and 4 bytes: `pack("24", a, b)`. */
const pack = (sizes, ...values) => {
  const out = new DataView(new ArrayBuffer([...sizes].reduce((sum, size) => sum + Number(size), 0)));
  let at = 0;
  [...sizes].forEach((size, number) => {
    if (size === "2") out.setUint16(at, values[number], true);
    else out.setUint32(at, values[number], true);
    at += Number(size);
  });
  return out.buffer;
};

const LIMIT = 0xffffffff; // of sizes and offsets in a zip file without its 64-bit extension
const VERSION = 20;
const MADE_BY_UNIX = 0x300 | VERSION; // MS-DOS names, which zip without a host means, are no UTF-8 to every reader
const REGULAR_FILE = (0o100644 << 16) >>> 0;
const UTF8_NAMES = 0x800;

/**
 * A zip file (PKWARE's APPNOTE, sections 4.3.7, 4.3.12 and 4.3.16) of `{ name, blob, modified }`, as they come.
 * Throws a RangeError beyond 4 GiB or 65534 files.
 */
export const storedZip = async (files) => {
  const [parts, directory] = [[], []];
  let [offset, count, directorySize] = [0, 0, 0];
  for await (const { name, blob, modified } of files) {
    const title = new TextEncoder().encode(name);
    const crc = crc32(new Uint8Array(await blob.arrayBuffer()));
    const common = [UTF8_NAMES, 0, ...dosTime(modified), crc, blob.size, blob.size, title.length, 0];
    const local = pack("42222244422", 0x04034b50, VERSION, ...common);
    const entry = pack("42222224442222244", 0x02014b50, MADE_BY_UNIX, VERSION, ...common, 0, 0, 0, REGULAR_FILE, offset);
    parts.push(local, title, blob);
    directory.push(entry, title);
    offset += local.byteLength + title.length + blob.size;
    directorySize += entry.byteLength + title.length;
    count += 1;
    if (offset + directorySize > LIMIT || count > 65534) throw new RangeError("too much for one zip file");
  }
  const end = pack("42222442", 0x06054b50, 0, 0, count, count, directorySize, offset, 0);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
};
