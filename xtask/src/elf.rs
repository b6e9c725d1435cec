//! Takes the debug sections out of a relocatable 64-bit little-endian ELF file. Owns nothing but bytes.
//!
//! The loader needs programs, maps and BTF only. Debug sections are four fifths of what the compiler writes and
//! hold paths of the machine that built it. GNU strip does not know the format and llvm-strip is another
//! package, so the few steps are here. Section numbers stay: dropped sections become empty SHT_NULL entries,
//! and no symbol, relocation or link has to be renumbered.

use anyhow::{Context, Result, bail};

/// Size of the file header and of one section header in this class.
const FILE_HEADER: usize = 64;
const SECTION_HEADER: usize = 64;
const SHT_NOBITS: u32 = 8;

fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let slice = bytes.get(at..at + N).context("the object is shorter than its headers say")?;
    Ok(slice.try_into()?)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<usize> {
    Ok(usize::from(u16::from_le_bytes(number(bytes, at)?)))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32> {
    Ok(u32::from_le_bytes(number(bytes, at)?))
}

fn usize_at(bytes: &[u8], at: usize) -> Result<usize> {
    Ok(usize::try_from(u64::from_le_bytes(number(bytes, at)?))?)
}

/// One section: its header as it was, its name and where its bytes are.
struct Section<'a> {
    header: [u8; SECTION_HEADER],
    name: String,
    bytes: &'a [u8],
    align: usize,
}

fn sections(object: &[u8]) -> Result<Vec<Section<'_>>> {
    if !object.starts_with(b"\x7fELF\x02\x01") {
        bail!("not a 64-bit little-endian ELF file");
    }
    let (table, count, names) = (usize_at(object, 40)?, u16_at(object, 60)?, u16_at(object, 62)?);
    let bytes_of = |at: usize| -> Result<&[u8]> {
        if u32_at(object, at + 4)? == SHT_NOBITS {
            return Ok(&[]);
        }
        let (offset, size) = (usize_at(object, at + 24)?, usize_at(object, at + 32)?);
        object.get(offset..offset + size).context("a section lies outside the object")
    };
    let strings = bytes_of(table + names * SECTION_HEADER)?;
    (0..count)
        .map(|index| {
            let at = table + index * SECTION_HEADER;
            let start = usize::try_from(u32_at(object, at)?)?;
            let name = strings.get(start..).context("a section name lies outside")?;
            let end = name.iter().position(|b| *b == 0).context("a section name has no end")?;
            Ok(Section {
                header: number(object, at)?,
                name: String::from_utf8_lossy(&name[..end]).into_owned(),
                bytes: bytes_of(at)?,
                align: usize_at(object, at + 48)?.max(1),
            })
        })
        .collect()
}

fn is_debug(name: &str) -> bool {
    name.strip_prefix(".rel").unwrap_or(name).starts_with(".debug_")
}

/// The same object without its debug sections.
///
/// # Errors
/// The bytes are no such ELF file, or are cut short.
pub fn without_debug(object: &[u8]) -> Result<Vec<u8>> {
    let mut out = object.get(..FILE_HEADER).context("shorter than an ELF header")?.to_vec();
    let mut table = Vec::new();
    for section in sections(object)? {
        let mut header = section.header;
        if is_debug(&section.name) {
            header = [0; SECTION_HEADER];
        } else if header[4..8] != [0; 4] {
            out.resize(out.len().next_multiple_of(section.align), 0);
            header[24..32].copy_from_slice(&u64::try_from(out.len())?.to_le_bytes());
            out.extend_from_slice(section.bytes);
        }
        table.extend_from_slice(&header);
    }
    out.resize(out.len().next_multiple_of(8), 0);
    let start = u64::try_from(out.len())?;
    out[40..48].copy_from_slice(&start.to_le_bytes());
    out.extend_from_slice(&table);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three sections: null, `keep`, `.debug_x`, and their names.
    fn sample() -> Vec<u8> {
        let names = b"\0keep\0.debug_x\0.names\0";
        let mut file = vec![0u8; FILE_HEADER];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let mut table = vec![0u8; SECTION_HEADER];
        for (name, bytes) in [(1u32, &b"KEEP"[..]), (6, &[7; 1000][..]), (15, &names[..])] {
            let mut header = [0u8; SECTION_HEADER];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[4..8].copy_from_slice(&1u32.to_le_bytes());
            header[24..32].copy_from_slice(&(file.len() as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
            header[48..56].copy_from_slice(&4u64.to_le_bytes());
            file.extend_from_slice(bytes);
            table.extend_from_slice(&header);
        }
        let start = file.len() as u64;
        file[40..48].copy_from_slice(&start.to_le_bytes());
        file[60..62].copy_from_slice(&4u16.to_le_bytes());
        file[62..64].copy_from_slice(&3u16.to_le_bytes());
        file.extend_from_slice(&table);
        file
    }

    #[test]
    fn drops_debug_and_keeps_numbers_and_bytes_of_the_others() {
        let stripped = without_debug(&sample()).unwrap();
        let kept = sections(&stripped).unwrap();
        assert_eq!(kept.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["", "keep", "", ".names"]);
        assert_eq!(kept[1].bytes, b"KEEP");
        assert!(stripped.len() + 900 < sample().len());
        assert_eq!(without_debug(&stripped).unwrap(), stripped, "a second pass changes nothing");
    }

    #[test]
    fn refuses_what_is_cut_short() {
        assert!(without_debug(&sample()[..300]).is_err());
        assert!(without_debug(b"MZ").is_err());
    }
}
