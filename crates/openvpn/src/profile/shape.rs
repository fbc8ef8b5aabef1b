//! Directives about the form of packets: compression, fragments, segment sizes.

use super::{Draft, Line, ProfileError};
use crate::shape::{Framing, SizeLimit};

/// Smaller datagrams carry next to nothing.
const MIN_SIZE: u64 = 68;
const MAX_SIZE: u64 = 65_535;
/// What `mssfix` alone means.
const USUAL_OUTER: u16 = 1492;

/// Obeys one line; false if it is not about the form of packets.
pub(super) fn apply(draft: &mut Draft, line: &Line) -> Result<bool, ProfileError> {
    match line.name.as_str() {
        name @ ("comp-lzo" | "compress") => {
            let framing = Framing::named(name, line.word(0)).ok_or_else(|| {
                line.error(format_args!("{:?} is not supported", line.word(0).unwrap_or_default()))
            })?;
            draft.shape.framing = framing;
            if framing.is_some() {
                draft.warnings.push(format!(
                    "line {}: {name}: compression gives away what is encrypted (VORACLE). What \
                     the peer compresses is expanded; what is sent is framed, never compressed",
                    line.number
                ));
            }
        }
        "allow-compression" => match line.word(0) {
            Some("no" | "asym") => {}
            Some("yes") => draft.warnings.push(format!(
                "line {}: allow-compression yes: nothing that is sent is ever compressed",
                line.number
            )),
            _ => return Err(line.error("needs no, asym or yes")),
        },
        "fragment" => {
            let size = size(line)?;
            draft.shape.fragment = Some(match line.word(1) {
                None => SizeLimit::Payload(size),
                Some("mtu") => SizeLimit::Outer(size),
                Some(_) => return Err(line.error("needs SIZE [mtu]")),
            });
        }
        "mssfix" => {
            draft.mssfix_given = true;
            draft.shape.mssfix = match (line.word(0), line.word(1)) {
                (None, _) => Some(SizeLimit::Outer(USUAL_OUTER)),
                (Some("0"), _) => None,
                (Some(_), None) => Some(SizeLimit::Payload(size(line)?)),
                (Some(_), Some("mtu")) => Some(SizeLimit::Outer(size(line)?)),
                (Some(_), Some("fixed")) => Some(SizeLimit::Inner(size(line)?)),
                _ => return Err(line.error("needs SIZE [mtu|fixed]")),
            };
            draft.mssfix_alone = line.words.is_empty();
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Fragments without a word about segments are segments that need none.
/// Between two peers nobody else sees to them.
pub(super) fn finish(draft: &mut Draft, is_point: bool) {
    if draft.shape.fragment.is_some() && (!draft.mssfix_given || draft.mssfix_alone) {
        draft.shape.mssfix = draft.shape.fragment;
    }
    if is_point && !draft.mssfix_given && draft.shape.fragment.is_none() {
        draft.shape.mssfix = Some(SizeLimit::Outer(USUAL_OUTER));
    }
    draft.shape.mtu = draft.mtu;
}

fn size(line: &Line) -> Result<u16, ProfileError> {
    let word = line.word(0).unwrap_or_default();
    let size = word.parse().ok().filter(|size| (MIN_SIZE..=MAX_SIZE).contains(size));
    size.and_then(|size| u16::try_from(size).ok()).ok_or_else(|| {
        line.error(format_args!("{word:?} is not a number from {MIN_SIZE} to {MAX_SIZE}"))
    })
}
