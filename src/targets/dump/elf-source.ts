/**
 * Where the bytes of a dump come from: a file that is read piece by piece, or an xz file, which has to be unpacked whole. Memory dumps
 * are mostly zeros, so unpacked pieces of zeros are not kept.
 */
import { closeSync, createReadStream, openSync, readSync, statSync } from 'node:fs';
import { Readable } from 'node:stream';
import * as xzModule from 'xz-decompress';

/** The package is CommonJS: some loaders see its names, others only its default. */
const { XzReadableStream } =
  'XzReadableStream' in xzModule ? xzModule : (xzModule as unknown as { default: typeof xzModule }).default;

/** Random access to the bytes of a dump. */
export interface ByteSource {
  /** Length in bytes. */
  readonly size: number;
  /** `length` bytes from `offset` on; shorter at the end. The array may be reused by the next call. */
  read(offset: number, length: number): Uint8Array;
  close(): void;
}

/** A file, read as asked. */
class FileSource implements ByteSource {
  readonly size: number;
  private readonly fd: number;

  constructor(path: string) {
    this.size = statSync(path).size;
    this.fd = openSync(path, 'r');
  }

  read(offset: number, length: number): Uint8Array {
    const bytes = new Uint8Array(Math.max(0, Math.min(length, this.size - offset)));
    let done = 0;
    while (done < bytes.length) {
      const n = readSync(this.fd, bytes, done, bytes.length - done, offset + done);
      if (n === 0) break;
      done += n;
    }
    return bytes.subarray(0, done);
  }

  close(): void {
    closeSync(this.fd);
  }
}

const PIECE = 1 << 16;

/** Unpacked bytes in pieces of 64 KiB; a missing piece is zeros. */
class SparseBytes implements ByteSource {
  size = 0;
  private readonly pieces = new Map<number, Uint8Array>();
  private current = new Uint8Array(PIECE);
  private filled = 0;
  /** Number of the piece being filled. */
  private next = 0;

  append(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length;) {
      const part = Math.min(PIECE - this.filled, bytes.length - at);
      this.current.set(bytes.subarray(at, at + part), this.filled);
      this.filled += part;
      at += part;
      if (this.filled === PIECE) this.keep();
    }
    this.size += bytes.length;
  }

  private keep(): void {
    if (new Int32Array(this.current.buffer).some((word) => word !== 0)) {
      this.pieces.set(this.next, this.current);
      this.current = new Uint8Array(PIECE);
    }
    this.next++;
    this.filled = 0;
  }

  finish(): void {
    if (this.filled > 0) {
      this.current.fill(0, this.filled);
      this.keep();
    }
  }

  read(offset: number, length: number): Uint8Array {
    const out = new Uint8Array(Math.max(0, Math.min(length, this.size - offset)));
    for (let done = 0; done < out.length;) {
      const at = offset + done;
      const inPiece = at % PIECE;
      const part = Math.min(PIECE - inPiece, out.length - done);
      const piece = this.pieces.get(Math.floor(at / PIECE));
      if (piece !== undefined) out.set(piece.subarray(inPiece, inPiece + part), done);
      done += part;
    }
    return out;
  }

  close(): void {
    this.pieces.clear();
  }
}

const XZ_MAGIC = [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00];

/**
 * Opens a dump file, plain or xz.
 * @throws Error that names the file and what is wrong with it
 */
export async function openSource(path: string): Promise<ByteSource> {
  let file: FileSource;
  try {
    file = new FileSource(path);
  } catch (e) {
    throw new Error(`cannot open the dump ${path}: ${(e as Error).message}`, { cause: e });
  }
  const head = file.read(0, XZ_MAGIC.length);
  if (!XZ_MAGIC.every((b, i) => head[i] === b)) return file;
  file.close();
  const unpacked = new SparseBytes();
  try {
    const packed = Readable.toWeb(createReadStream(path, { highWaterMark: 1 << 20 }));
    const stream = new XzReadableStream(packed as ReadableStream<Uint8Array>);
    for await (const bytes of stream as unknown as AsyncIterable<Uint8Array>) unpacked.append(bytes);
  } catch (e) {
    throw new Error(`${path} is not a complete xz file: ${(e as Error).message}`, { cause: e });
  }
  unpacked.finish();
  return unpacked;
}
