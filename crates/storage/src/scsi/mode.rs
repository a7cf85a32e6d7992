//! MODE SENSE and MODE SELECT (SPC-4, sections 6.11 to 6.14 and 7.5).

use super::Sense;
use super::cdb::{Cdb, allocate};
use super::command::{MODE_SELECT_10, MODE_SENSE_10};

/// A mode page: its code and what follows the two bytes of the header, as it is now and which of its bits
/// MODE SELECT may change.
pub(super) struct Page {
    pub(super) code: u8,
    pub(super) current: Vec<u8>,
    pub(super) changeable: Vec<u8>,
}

impl Page {
    /// A page with nothing to change.
    pub(super) fn fixed(code: u8, current: Vec<u8>) -> Self {
        let changeable = vec![0; current.len()];
        Self { code, current, changeable }
    }
}

/// What MODE SENSE says beside the pages.
pub(super) struct Header {
    pub(super) medium_type: u8,
    pub(super) device_specific: u8,
    /// Block descriptor, unless the command disables it.
    pub(super) descriptor: Option<[u8; 8]>,
}

/// Answers MODE SENSE (6) and (10). `default` is what the pages are after a reset.
pub(super) fn sense(
    cdb: Cdb<'_>,
    header: &Header,
    pages: &[Page],
    default: &[Page],
    reply: &mut Vec<u8>,
) -> Result<(), Sense> {
    const ALL_PAGES: u8 = 0x3f;
    let long = cdb.u8(0) == MODE_SENSE_10;
    let (control, code, subpage) = (cdb.u8(2) >> 6, cdb.u8(2) & 0x3f, cdb.u8(3));
    if control == 3 {
        return Err(Sense::SAVING_NOT_SUPPORTED);
    }
    if subpage != 0 && (code != ALL_PAGES || subpage != 0xff) {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    let descriptor: &[u8] = match &header.descriptor {
        Some(descriptor) if cdb.u8(1) & 0x08 == 0 => descriptor,
        _ => &[],
    };
    if long {
        reply.extend_from_slice(&[0, 0, header.medium_type, header.device_specific, 0, 0, 0]);
    } else {
        reply.extend_from_slice(&[0, header.medium_type, header.device_specific]);
    }
    reply.push(descriptor.len() as u8);
    reply.extend_from_slice(descriptor);
    let head = reply.len();
    let shown = if control == 2 { default } else { pages };
    for page in shown.iter().filter(|page| code == ALL_PAGES || page.code == code) {
        let body = if control == 1 { &page.changeable } else { &page.current };
        reply.extend_from_slice(&[page.code, body.len() as u8]);
        reply.extend_from_slice(body);
    }
    if reply.len() == head && code != ALL_PAGES {
        reply.clear();
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    // The length counts what follows it.
    if long {
        let len = (reply.len() - 2) as u16;
        reply[..2].copy_from_slice(&len.to_be_bytes());
        allocate(reply, cdb.be16(7).into());
    } else {
        reply[0] = (reply.len() - 1) as u8;
        allocate(reply, cdb.u8(4).into());
    }
    Ok(())
}

/// Checks a MODE SELECT (6) or (10) and calls `set` with code and body of every page in it. Only bits that
/// are changeable may differ from what a page is now.
pub(super) fn select(
    cdb: Cdb<'_>,
    parameters: &[u8],
    pages: &[Page],
    mut set: impl FnMut(u8, &[u8]),
) -> Result<(), Sense> {
    let long = cdb.u8(0) == MODE_SELECT_10;
    let page_format = cdb.u8(1) & 0x10 != 0;
    if !page_format || cdb.u8(1) & 0x01 != 0 {
        return Err(Sense::INVALID_FIELD_IN_CDB);
    }
    let len = if long { usize::from(cdb.be16(7)) } else { usize::from(cdb.u8(4)) };
    if len == 0 {
        return Ok(());
    }
    let list = parameters.get(..len).ok_or(Sense::PARAMETER_LIST_LENGTH)?;
    let head = if long { 8 } else { 4 };
    let fields = Cdb(list);
    let descriptors = if long { usize::from(fields.be16(6)) } else { usize::from(fields.u8(3)) };
    let body = list.get(head + descriptors..).ok_or(Sense::PARAMETER_LIST_LENGTH)?;
    if descriptors != 0 && descriptors != 8 {
        return Err(Sense::INVALID_FIELD_IN_PARAMETERS);
    }
    // All pages are checked before the first is set.
    for (code, body) in PageList(body) {
        let body = body?;
        let page = pages.iter().find(|page| page.code == code);
        let page = page.ok_or(Sense::INVALID_FIELD_IN_PARAMETERS)?;
        if body.len() != page.current.len() {
            return Err(Sense::INVALID_FIELD_IN_PARAMETERS);
        }
        let changed = body.iter().zip(&page.current).zip(&page.changeable);
        if changed.into_iter().any(|((new, now), mask)| (new ^ now) & !mask != 0) {
            return Err(Sense::INVALID_FIELD_IN_PARAMETERS);
        }
    }
    for (code, body) in PageList(body) {
        set(code, body?);
    }
    Ok(())
}

/// The pages of a parameter list: code and body.
struct PageList<'a>(&'a [u8]);

impl<'a> Iterator for PageList<'a> {
    type Item = (u8, Result<&'a [u8], Sense>);

    fn next(&mut self) -> Option<Self::Item> {
        let code = self.0.first()? & 0x3f;
        let (long_format, len) = (self.0[0] & 0x40 != 0, self.0.get(1).copied().unwrap_or(0));
        let body = self.0.get(2..2 + usize::from(len));
        match body {
            Some(body) if !long_format && self.0.len() > 1 => {
                self.0 = &self.0[2 + body.len()..];
                Some((code, Ok(body)))
            }
            _ => {
                self.0 = &[];
                Some((code, Err(Sense::PARAMETER_LIST_LENGTH)))
            }
        }
    }
}
