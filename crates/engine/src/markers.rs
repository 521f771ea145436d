//! Texts that mean something in a stream (stop texts, tags), and how much of a stream is certain.
//!
//! This is the one rule for holding text back, for stop texts here and for the tags that the server looks for: text is
//! certain once no marker can begin in it any more. The invariant: what is certain does not depend on how the stream
//! was cut into pieces.

use std::ops::Range;

/// The marker in `text` that is complete first as the text is read; of two that end together, the longer. Its index in
/// `markers`, and where it is.
pub fn find<T: AsRef<str>>(markers: &[T], text: &str) -> Option<(usize, Range<usize>)> {
    let found = markers.iter().enumerate().filter_map(|(which, marker)| {
        let marker = marker.as_ref();
        text.find(marker).map(|start| (which, start..start + marker.len()))
    });
    found.min_by_key(|(_, at)| (at.end, at.start))
}

/// Bytes of `text` that no continuation can make part of a marker: all but the longest beginning of one at the end.
/// For a text without a complete marker.
pub fn certain_len<T: AsRef<str>>(markers: &[T], text: &str) -> usize {
    let beginning = |marker: &T| {
        let marker = marker.as_ref();
        let most = marker.len().saturating_sub(1).min(text.len());
        let is_end = |&len: &usize| marker.is_char_boundary(len) && text.ends_with(&marker[..len]);
        (1..=most).rev().find(is_end).unwrap_or(0)
    };
    text.len() - markers.iter().map(beginning).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marker_that_is_complete_first_is_found() {
        assert_eq!(find(&["abc", "b"], "xabc"), Some((1, 2..3)));
        assert_eq!(find(&["bc", "abc"], "xabc"), Some((1, 1..4)), "the longer of two that end together");
        assert_eq!(find(&["d"], "xabc"), None);
    }

    #[test]
    fn the_beginning_of_a_marker_is_not_certain() {
        let none: [&str; 0] = [];
        for (markers, text, certain) in [
            (&["</think>"][..], "a </thi", 2),
            (&["</think>"], "a </thin ", 9),
            (&["ab", "xyzab!"], "xyza", 0),
            (&["é"], "e", 1),
            (&none, "abc", 3),
        ] {
            assert_eq!(certain_len(markers, text), certain, "{markers:?} in {text:?}");
        }
    }
}
