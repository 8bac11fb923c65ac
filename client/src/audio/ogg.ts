/**
 * Ogg Opus (RFC 3533, RFC 7845): the container in which the wire carries Opus packets. Mono, one logical
 * stream, one packet a page when written; whatever is valid when read.
 */

/** Opus counts samples at this rate, whatever the rate of the input. */
export const GRANULE_RATE_HZ = 48000;

const HEADER_BYTES = 27;
const MAX_PAGE_BYTES = HEADER_BYTES + 255 + 255 * 255;
const CONTINUED = 1;
const BEGINNING = 2;
const CAPTURE = [0x4f, 0x67, 0x67, 0x53] as const; // "OggS"

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 24;
  for (let bit = 0; bit < 8; bit++) crc = crc & 0x80000000 ? (crc << 1) ^ 0x04c11db7 : crc << 1;
  return crc >>> 0;
});

/** CRC of a page, with the page's own field (bytes 22-25) read as zero (RFC 3533 §6). */
function pageCrc(page: Uint8Array): number {
  let crc = 0;
  for (let at = 0; at < page.length; at++) {
    const byte = at >= 22 && at < 26 ? 0 : page[at]!;
    crc = (crc << 8) ^ CRC_TABLE[(crc >>> 24) ^ byte]!;
  }
  return crc >>> 0;
}

/** Writes a stream: its header pages once, then a page for each packet. */
export class OggOpusWriter {
  private sequence = 0;
  private granule: number;

  /**
   * @param serial The stream's number, any 32 bits.
   * @param inputRateHz Told to readers; the stream itself has no rate.
   * @param preSkip The encoder's look-ahead, in samples at 48 kHz.
   */
  constructor(
    private readonly serial: number,
    private readonly inputRateHz: number,
    private readonly preSkip: number,
  ) {
    this.granule = preSkip;
  }

  /** The two header pages, OpusHead and OpusTags. */
  headers(): Uint8Array {
    const head = new Uint8Array(19);
    head.set(new TextEncoder().encode("OpusHead"));
    const view = new DataView(head.buffer);
    view.setUint8(8, 1); // version
    view.setUint8(9, 1); // channels
    view.setUint16(10, this.preSkip, true);
    view.setUint32(12, this.inputRateHz, true);
    const vendor = new TextEncoder().encode("pxbridge");
    const tags = new Uint8Array(8 + 4 + vendor.length + 4);
    tags.set(new TextEncoder().encode("OpusTags"));
    new DataView(tags.buffer).setUint32(8, vendor.length, true);
    tags.set(vendor, 12);
    return concat(this.page(head, 0, BEGINNING), this.page(tags, 0, 0));
  }

  /** The page of a packet of so many samples at 48 kHz. */
  packet(packet: Uint8Array, samples: number): Uint8Array {
    this.granule += samples;
    return this.page(packet, this.granule, 0);
  }

  private page(packet: Uint8Array, granule: number, flags: number): Uint8Array {
    const segments = Math.floor(packet.length / 255) + 1; // a packet ends with a segment below 255 bytes
    if (segments > 255) throw new RangeError(`a packet of ${packet.length} bytes does not fit into a page`);
    const page = new Uint8Array(HEADER_BYTES + segments + packet.length);
    const view = new DataView(page.buffer);
    page.set(CAPTURE);
    view.setUint8(5, flags);
    view.setBigUint64(6, BigInt(granule), true);
    view.setUint32(14, this.serial, true);
    view.setUint32(18, this.sequence++, true);
    view.setUint8(26, segments);
    page.fill(255, HEADER_BYTES, HEADER_BYTES + segments - 1);
    view.setUint8(HEADER_BYTES + segments - 1, packet.length % 255);
    page.set(packet, HEADER_BYTES + segments);
    view.setUint32(22, pageCrc(page), true);
    return page;
  }
}

/**
 * Reads a stream that comes in pieces of any size. Broken pages are counted and skipped, and reading goes on
 * at the next page: a call must not end because of them.
 */
export class OggOpusReader {
  badCrc = 0;
  /** Bytes that belong to no page. */
  skippedBytes = 0;
  private kept = new Uint8Array(0);
  private begun: Uint8Array | null = null;

  /** Takes the next bytes; returns the Opus packets that they complete, without headers. */
  read(bytes: Uint8Array): Uint8Array[] {
    const buffer = this.kept.length ? concat(this.kept, bytes) : bytes;
    const packets: Uint8Array[] = [];
    let at = 0;
    while (true) {
      const start = findCapture(buffer, at);
      this.skippedBytes += start - at;
      at = start;
      const length = pageLength(buffer, at);
      if (length === null || at + length > buffer.length) break;
      const page = buffer.subarray(at, at + length);
      if (pageCrc(page) !== new DataView(page.buffer, page.byteOffset).getUint32(22, true)) {
        this.badCrc++;
        this.begun = null;
        at += 1; // the length itself may be wrong, so look for the next page inside of this one
        continue;
      }
      this.readPage(page, packets);
      at += length;
    }
    this.kept = buffer.slice(at, at + MAX_PAGE_BYTES);
    return packets;
  }

  private readPage(page: Uint8Array, packets: Uint8Array[]): void {
    const segments = page[26]!;
    if (!(page[5]! & CONTINUED)) this.begun = null;
    let isWhole = this.begun !== null || !(page[5]! & CONTINUED);
    let at = HEADER_BYTES + segments;
    let length = 0;
    for (let segment = 0; segment < segments; segment++) {
      const lacing = page[HEADER_BYTES + segment]!;
      length += lacing;
      if (lacing === 255) continue;
      const part = page.slice(at, at + length);
      const packet = this.begun ? concat(this.begun, part) : part;
      if (isWhole && packet.length > 0 && !isHeader(packet)) packets.push(packet);
      this.begun = null;
      isWhole = true;
      at += length;
      length = 0;
    }
    if (length > 0 && isWhole) {
      const part = page.slice(at, at + length);
      this.begun = this.begun ? concat(this.begun, part) : part;
      if (this.begun.length > MAX_PAGE_BYTES) this.begun = null; // no Opus packet is so long
    }
  }
}

/** Where the next page may begin, from `from` on: what follows is "OggS", or the end with a part of it. */
function findCapture(buffer: Uint8Array, from: number): number {
  for (let at = from; at < buffer.length; at++) {
    let same = 0;
    while (same < 4 && at + same < buffer.length && buffer[at + same] === CAPTURE[same]) same++;
    if (same === 4 || (same > 0 && at + same === buffer.length)) return at;
  }
  return buffer.length;
}

/** The length of the page at `at`; null if its header is not there yet. */
function pageLength(buffer: Uint8Array, at: number): number | null {
  if (at + HEADER_BYTES > buffer.length) return null;
  const segments = buffer[at + 26]!;
  if (at + HEADER_BYTES + segments > buffer.length) return null;
  let length = HEADER_BYTES + segments;
  for (let segment = 0; segment < segments; segment++) length += buffer[at + HEADER_BYTES + segment]!;
  return length;
}

function isHeader(packet: Uint8Array): boolean {
  if (packet.length < 8) return false;
  const magic = String.fromCharCode(...packet.subarray(0, 8));
  return magic === "OpusHead" || magic === "OpusTags";
}

function concat(first: Uint8Array, second: Uint8Array): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(first.length + second.length);
  whole.set(first);
  whole.set(second, first.length);
  return whole;
}

/** The duration of an Opus packet in samples at 48 kHz, from its first bytes (RFC 6716 §3.1); 0 if it is none. */
export function packetSamples(packet: Uint8Array): number {
  const toc = packet[0];
  if (toc === undefined) return 0;
  const config = toc >> 3;
  const frameSamples =
    config < 12
      ? [480, 960, 1920, 2880][config & 3]! // SILK: 10, 20, 40, 60 ms
      : config < 16
        ? [480, 960][config & 1]! // hybrid: 10, 20 ms
        : [120, 240, 480, 960][config & 3]!; // CELT: 2.5, 5, 10, 20 ms
  const code = toc & 3;
  const frames = code === 0 ? 1 : code < 3 ? 2 : (packet[1] ?? 0) & 63;
  const samples = frames * frameSamples;
  return samples <= 5760 ? samples : 0; // at most 120 ms (R5)
}
