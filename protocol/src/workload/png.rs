//! Pictures as PNG (ISO/IEC 15948), in the one form that answers have: eight bits of red, green and blue, not
//! interlaced, and nothing in the file but the picture.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};

const SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";
/// After both sides: depth 8, colour, deflate, the five filters, not interlaced.
const FORM: [u8; 5] = [8, 2, 0, 0, 0];
pub(crate) const BYTES_PER_PIXEL: usize = 3;
/// The last of the filters that a row may name.
const LAST_FILTER: u8 = 4;

/// Why bytes are not the picture that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PngFault {
    /// They do not begin as a PNG does.
    #[error("it does not begin as a PNG")]
    Signature,
    /// A chunk is cut off, or stands where it must not.
    #[error("it is not a header, data and an end, and nothing else")]
    Chunks,
    /// A chunk's checksum is wrong.
    #[error("the checksum of a chunk is wrong")]
    Checksum,
    /// It is of another size, or of other pixels.
    #[error("it is not of the size and form that were asked for")]
    Form,
    /// The data are not rows of pixels, all of them and nothing else.
    #[error("its data are not its rows")]
    Rows,
}

/// Refuses what is not one whole picture of this size.
pub fn check(file: &[u8], width: u32, height: u32) -> Result<(), PngFault> {
    filtered(file, width, height).map(|_| ())
}

/// Red, green and blue of every pixel, row by row, of what [`check`] does not refuse.
pub fn pixels(file: &[u8], width: u32, height: u32) -> Result<Vec<u8>, PngFault> {
    let rows = filtered(file, width, height)?;
    let bytes = width as usize * BYTES_PER_PIXEL;
    let (mut pixels, mut above) = (Vec::with_capacity(bytes * height as usize), vec![0; bytes]);
    for row in rows.chunks_exact(bytes + 1) {
        let (filter, row) = row.split_first().unwrap_or((&0, &[]));
        above = unfiltered(*filter, row, &above);
        pixels.extend_from_slice(&above);
    }
    Ok(pixels)
}

/// A row as it was before its filter took away what the bytes to the left, above, and left of that foretell.
fn unfiltered(filter: u8, row: &[u8], above: &[u8]) -> Vec<u8> {
    let mut found: Vec<u8> = Vec::with_capacity(row.len());
    for (at, (byte, up)) in row.iter().zip(above).enumerate() {
        let left = at.checked_sub(BYTES_PER_PIXEL);
        let (corner, left) = left.map_or((0, 0), |left| (above[left], found[left]));
        let foretold = match filter {
            1 => left,
            2 => *up,
            3 => left.midpoint(*up),
            4 => nearest(left, *up, corner),
            _ => 0,
        };
        found.push(byte.wrapping_add(foretold));
    }
    found
}

/// Paeth's choice: whichever of the three is nearest to left + up − corner, the first of equals.
fn nearest(left: u8, up: u8, corner: u8) -> u8 {
    let due = i16::from(left) + i16::from(up) - i16::from(corner);
    let [to_left, to_up, to_corner] = [left, up, corner].map(|byte| due.abs_diff(i16::from(byte)));
    if to_left <= to_up && to_left <= to_corner {
        left
    } else if to_up <= to_corner {
        up
    } else {
        corner
    }
}

/// Rows of one whole picture of this size, each with its filter before it.
fn filtered(file: &[u8], width: u32, height: u32) -> Result<Vec<u8>, PngFault> {
    let mut rest = file.strip_prefix(&SIGNATURE).ok_or(PngFault::Signature)?;
    let (kind, header) = next_chunk(&mut rest)?;
    if kind != *b"IHDR" {
        return Err(PngFault::Chunks);
    }
    if header != [&width.to_be_bytes()[..], &height.to_be_bytes(), &FORM].concat() {
        return Err(PngFault::Form);
    }
    let mut data = Vec::new();
    loop {
        match next_chunk(&mut rest)? {
            (kind, more) if kind == *b"IDAT" => data.extend_from_slice(more),
            (kind, []) if kind == *b"IEND" && rest.is_empty() => break,
            _ => return Err(PngFault::Chunks),
        }
    }
    inflated(&data, width as usize * BYTES_PER_PIXEL + 1, height as usize)
}

/// The kind and the content of the next chunk, its checksum being right.
fn next_chunk<'a>(rest: &mut &'a [u8]) -> Result<([u8; 4], &'a [u8]), PngFault> {
    let (length, after) = rest.split_first_chunk::<4>().ok_or(PngFault::Chunks)?;
    let length = u32::from_be_bytes(*length) as usize;
    let (summed, after) = after.split_at_checked(length.saturating_add(4)).ok_or(PngFault::Chunks)?;
    let (checksum, after) = after.split_first_chunk::<4>().ok_or(PngFault::Chunks)?;
    if crc32fast::hash(summed) != u32::from_be_bytes(*checksum) {
        return Err(PngFault::Checksum);
    }
    *rest = after;
    let (kind, content) = summed.split_first_chunk::<4>().ok_or(PngFault::Chunks)?;
    Ok((*kind, content))
}

/// Takes memory for the rows that are due, and not for what the data would become.
fn inflated(data: &[u8], row: usize, rows: usize) -> Result<Vec<u8>, PngFault> {
    let mut pixels = vec![0; row * rows];
    let flags = inflate_flags::TINFL_FLAG_PARSE_ZLIB_HEADER
        | inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF
        | inflate_flags::TINFL_FLAG_COMPUTE_ADLER32;
    let (status, read, written) = decompress(&mut DecompressorOxide::new(), data, &mut pixels, 0, flags);
    if status != TINFLStatus::Done || read != data.len() || written != pixels.len() {
        return Err(PngFault::Rows);
    }
    if pixels.chunks_exact(row).any(|row| row[0] > LAST_FILTER) { Err(PngFault::Rows) } else { Ok(pixels) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
        let summed = [&kind[..], content].concat();
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&length[..], &summed, &crc32fast::hash(&summed).to_be_bytes()].concat()
    }

    fn header(width: u32, height: u32, form: [u8; 5]) -> Vec<u8> {
        chunk(b"IHDR", &[&width.to_be_bytes()[..], &height.to_be_bytes(), &form].concat())
    }

    fn rows(width: usize, height: usize) -> Vec<u8> {
        (0..height)
            .flat_map(|y| std::iter::once(y as u8 % 5).chain((0..3 * width).map(|x| x as u8)))
            .collect()
    }

    fn squeezed(rows: &[u8]) -> Vec<u8> {
        miniz_oxide::deflate::compress_to_vec_zlib(rows, 6)
    }

    fn file(chunks: &[Vec<u8>]) -> Vec<u8> {
        [SIGNATURE.to_vec(), chunks.concat()].concat()
    }

    fn good() -> [Vec<u8>; 3] {
        [header(8, 5, FORM), chunk(b"IDAT", &squeezed(&rows(8, 5))), chunk(b"IEND", &[])]
    }

    #[test]
    fn a_whole_picture_passes_in_one_piece_of_data_or_in_several() {
        let [head, data, end] = good();
        assert_eq!(check(&file(&[head.clone(), data, end.clone()]), 8, 5), Ok(()));
        let data = squeezed(&rows(8, 5));
        let (first, second) = data.split_at(9);
        let parts = [head, chunk(b"IDAT", first), chunk(b"IDAT", &[]), chunk(b"IDAT", second), end];
        assert_eq!(check(&file(&parts), 8, 5), Ok(()));
    }

    #[test]
    fn every_fault_of_a_picture_has_its_name() {
        let [head, data, end] = good();
        let whole = file(&[head.clone(), data.clone(), end.clone()]);
        let told = |chunks: &[Vec<u8>]| check(&file(chunks), 8, 5).unwrap_err();
        let with_data = |data: &[u8]| told(&[head.clone(), chunk(b"IDAT", data), end.clone()]);
        assert_eq!(check(b"GIF89a", 8, 5), Err(PngFault::Signature));
        assert_eq!((check(&whole, 5, 8), check(&whole, 8, 4)), (Err(PngFault::Form), Err(PngFault::Form)));
        for form in [[16, 2, 0, 0, 0], [8, 6, 0, 0, 0], [8, 2, 1, 0, 0], [8, 2, 0, 1, 0], [8, 2, 0, 0, 1]] {
            assert_eq!(told(&[header(8, 5, form), data.clone(), end.clone()]), PngFault::Form, "{form:?}");
        }
        assert_eq!(told(&[data.clone(), end.clone()]), PngFault::Chunks);
        assert_eq!(told(&[head.clone(), data.clone()]), PngFault::Chunks);
        assert_eq!(told(&[head.clone(), data.clone(), chunk(b"IEND", &[0])]), PngFault::Chunks);
        assert_eq!(told(&[head.clone(), data.clone(), end.clone(), end.clone()]), PngFault::Chunks);
        let hidden = chunk(b"tEXt", b"Comment\0more");
        assert_eq!(told(&[head.clone(), hidden, data.clone(), end.clone()]), PngFault::Chunks);
        assert_eq!(told(&[head.clone(), head.clone(), data, end.clone()]), PngFault::Chunks);
        assert_eq!(told(&[head.clone(), end.clone()]), PngFault::Rows);
        let squeezed_rows = squeezed(&rows(8, 5));
        assert_eq!(with_data(&squeezed_rows[..squeezed_rows.len() - 1]), PngFault::Rows);
        assert_eq!(with_data(&[&squeezed_rows[..], &[0]].concat()), PngFault::Rows);
        assert_eq!(with_data(&squeezed(&rows(8, 4))), PngFault::Rows);
        assert_eq!(with_data(&squeezed(&rows(8, 6))), PngFault::Rows);
        let mut odd = rows(8, 5);
        odd[25] = 5;
        assert_eq!(with_data(&squeezed(&odd)), PngFault::Rows, "the second row has a filter that is none");
        let mut wrong = squeezed_rows;
        *wrong.last_mut().unwrap() ^= 1;
        assert_eq!(with_data(&wrong), PngFault::Rows, "the checksum of the data");
    }

    #[test]
    fn no_byte_of_a_picture_can_be_changed_or_left_out() {
        let whole = file(&good());
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            assert!(check(&changed, 8, 5).is_err(), "byte {at}");
            assert!(check(&whole[..at], 8, 5).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn data_that_swell_take_no_memory() {
        let bomb = squeezed(&vec![0; 1 << 24]);
        let file = file(&[header(8, 5, FORM), chunk(b"IDAT", &bomb), chunk(b"IEND", &[])]);
        assert_eq!(check(&file, 8, 5), Err(PngFault::Rows));
        let endless = [&SIGNATURE[..], &u32::MAX.to_be_bytes(), b"IHDR"].concat();
        assert_eq!(check(&endless, 8, 5), Err(PngFault::Chunks));
    }
}
