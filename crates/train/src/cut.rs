//! The rows of the output that a head drafts from: the most frequent tokens.
//!
//! On small models the output is most of a draft token's cost; a token outside the cut is never drafted and stays
//! correct (FR-Spec, arXiv 2502.14856).

use crate::recorded::Record;

/// See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Ascending.
    rows: Vec<u32>,
}

impl Cut {
    /// The `count` tokens that answers have most often, then those of the smallest ids: vocabularies made by merging list
    /// frequent tokens first.
    pub fn of<'r>(answers: impl Iterator<Item = &'r Record>, vocab: usize, count: usize) -> Cut {
        let mut counts = vec![0u64; vocab];
        answers.flat_map(Record::answer).for_each(|&token| counts[token as usize] += 1);
        let mut order: Vec<u32> = (0..vocab as u32).collect();
        order.sort_by_key(|&token| (std::cmp::Reverse(counts[token as usize]), token));
        order.truncate(count);
        order.sort_unstable();
        Cut { rows: order }
    }

    /// Of rows from a file.
    ///
    /// # Errors
    /// Rows that are not ascending or not below `vocab`.
    pub fn from_rows(rows: Vec<u32>, vocab: usize) -> Result<Cut, String> {
        let ascending = rows.windows(2).all(|pair| pair[0] < pair[1]);
        match rows.last() {
            Some(&last) if ascending && (last as usize) < vocab => Ok(Cut { rows }),
            _ => Err(format!("its rows of the output are not ascending numbers below {vocab}")),
        }
    }

    /// The token of each row.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// The row of a token.
    pub fn index(&self, token: u32) -> Option<usize> {
        self.rows.binary_search(&token).ok()
    }

    /// Fraction of the answers' tokens that can be drafted.
    pub fn coverage<'r>(&self, answers: impl Iterator<Item = &'r Record>) -> f64 {
        let (mut inside, mut all) = (0usize, 0usize);
        for &token in answers.flat_map(Record::answer) {
            all += 1;
            inside += usize::from(self.index(token).is_some());
        }
        inside as f64 / all.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_tokens_come_first_and_small_ids_fill_the_rest() {
        let record = Record { job: 0, greedy: true, held_out: false, prompt: 2, tokens: vec![9, 9, 7, 5, 7] };
        let cut = Cut::of([&record].into_iter(), 10, 4);
        assert_eq!(cut.rows(), [0, 1, 5, 7], "9 is in the prompt only");
        assert_eq!((cut.index(7), cut.index(9)), (Some(3), None));
        assert_eq!(cut.coverage([&record].into_iter()), 1.0);
    }

    #[test]
    fn rows_of_a_file_are_checked() {
        assert!(Cut::from_rows(vec![1, 5], 6).is_ok());
        for rows in [vec![], vec![5, 1], vec![1, 1], vec![1, 6]] {
            assert!(Cut::from_rows(rows, 6).is_err());
        }
    }
}
