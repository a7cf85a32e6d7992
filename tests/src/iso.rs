//! A disc image with one file (ECMA-119), so that no program is needed to make one.

const BLOCK: usize = 2048;
/// Where the volume descriptors, the path tables, the root directory and the file are, in blocks.
const DESCRIPTORS: usize = 16;
const PATH_TABLES: [usize; 2] = [18, 19];
const DIRECTORY: usize = 20;
const FILE: usize = 21;
/// Bytes of the only entry of a path table: the root directory.
const PATH_TABLE: u32 = 10;

/// An image with `text` in the file `name`, which has capital letters, digits and one dot.
pub fn iso(name: &str, text: &[u8]) -> Vec<u8> {
    let blocks = FILE + text.len().div_ceil(BLOCK);
    let mut image = vec![0; blocks * BLOCK];
    let mut put = |block: usize, at: usize, bytes: &[u8]| {
        image[block * BLOCK + at..][..bytes.len()].copy_from_slice(bytes);
    };
    let root = record(DIRECTORY, BLOCK, true, &[0]);
    put(DESCRIPTORS, 0, b"\x01CD001\x01");
    put(DESCRIPTORS, 8, &[b' '; 64]);
    put(DESCRIPTORS, 40, b"BODHI");
    put(DESCRIPTORS, 80, &both_32(blocks as u32));
    put(DESCRIPTORS, 120, &both_16(1));
    put(DESCRIPTORS, 124, &both_16(1));
    put(DESCRIPTORS, 128, &both_16(BLOCK as u16));
    put(DESCRIPTORS, 132, &both_32(PATH_TABLE));
    put(DESCRIPTORS, 140, &(PATH_TABLES[0] as u32).to_le_bytes());
    put(DESCRIPTORS, 148, &(PATH_TABLES[1] as u32).to_be_bytes());
    put(DESCRIPTORS, 156, &root);
    put(DESCRIPTORS, 881, &[1]);
    put(DESCRIPTORS + 1, 0, b"\xffCD001\x01");
    for (block, big) in PATH_TABLES.into_iter().zip([false, true]) {
        let place = DIRECTORY as u32;
        put(block, 0, &[1, 0]);
        put(block, 2, &if big { place.to_be_bytes() } else { place.to_le_bytes() });
        put(block, 6, &if big { 1_u16.to_be_bytes() } else { 1_u16.to_le_bytes() });
    }
    let records = [
        root,
        record(DIRECTORY, BLOCK, true, &[1]),
        record(FILE, text.len(), false, format!("{name};1").as_bytes()),
    ];
    put(DIRECTORY, 0, &records.concat());
    put(FILE, 0, text);
    image
}

/// A directory record (section 9.1).
fn record(block: usize, len: usize, directory: bool, name: &[u8]) -> Vec<u8> {
    let mut record = vec![0, 0];
    record.extend(both_32(block as u32));
    record.extend(both_32(len as u32));
    // The first day of 2026.
    record.extend([126, 1, 1, 0, 0, 0, 0]);
    record.extend([if directory { 2 } else { 0 }, 0, 0]);
    record.extend(both_16(1));
    record.push(name.len() as u8);
    record.extend(name);
    if record.len() % 2 != 0 {
        record.push(0);
    }
    record[0] = record.len() as u8;
    record
}

fn both_16(value: u16) -> Vec<u8> {
    [value.to_le_bytes(), value.to_be_bytes()].concat()
}

fn both_32(value: u32) -> Vec<u8> {
    [value.to_le_bytes(), value.to_be_bytes()].concat()
}
