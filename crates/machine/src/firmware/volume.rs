//! Firmware volumes, of which UEFI firmware consists (UEFI Platform Initialization Specification 1.7, volume 3, section
//! 3.2.1).

const GUID: usize = 16;
const LENGTH: usize = 32;
const SIGNATURE: usize = 40;
/// EFI_SYSTEM_NV_DATA_FV_GUID (edk2, MdeModulePkg): the volume holds variables.
const VARIABLES: [u8; 16] =
    [0x8d, 0x2b, 0xf1, 0xff, 0x96, 0x76, 0x8b, 0x4c, 0xa9, 0x85, 0x27, 0x47, 0x07, 0x5b, 0x4f, 0x50];

/// Whether `bytes` begin with a volume.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    bytes.get(SIGNATURE..).is_some_and(|rest| rest.starts_with(b"_FVH"))
}

/// How many of `bytes` are a volume of variables that they begin with, if they do: at most all.
pub(super) fn variables(bytes: &[u8]) -> Option<usize> {
    let volume = is_one(bytes) && bytes.get(GUID..)?.starts_with(&VARIABLES);
    let length = u64::from_le_bytes(*bytes.get(LENGTH..)?.first_chunk()?);
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
    // It lies in flash memory of whole pages, as the code behind it does.
    (volume && length > 0).then_some(length.next_multiple_of(4096).min(bytes.len()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The header of a volume of `length` bytes.
    pub fn header(variables: bool, length: u64) -> Vec<u8> {
        let guid = if variables { VARIABLES } else { [7; 16] };
        [&[0; 16], &guid[..], &length.to_le_bytes(), b"_FVH"].concat()
    }

    #[test]
    fn a_volume_of_variables_tells_its_length_up_to_the_end_of_the_image() {
        let image = |variables, length| {
            let mut bytes = header(variables, length);
            bytes.resize(0x4000, 0);
            bytes
        };
        assert_eq!(super::variables(&image(true, 0x2000)), Some(0x2000));
        assert_eq!(super::variables(&image(true, 0x2001)), Some(0x3000));
        assert_eq!(super::variables(&image(true, u64::MAX)), Some(0x4000));
        assert_eq!(super::variables(&image(true, 0)), None);
        assert_eq!(super::variables(&image(false, 0x2000)), None);
        assert!(is_one(&image(false, 0x2000)) && !is_one(&image(false, 1)[1..]) && !is_one(&[]));
        assert_eq!(super::variables(&header(true, 1)[..30]), None);
    }
}
