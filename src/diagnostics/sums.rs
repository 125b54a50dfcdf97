//! Sums over stored matrices that several measurements of one save need, remembered while their
//! tensors are in use.

use std::rc::Rc;

use faer::Mat;

use crate::checkpoint::Text;
use crate::linalg::{Side, Squares};
use crate::model::Spans;

/// Grams remembered: those of a layer's matrices. The largest that a search forms takes 4 MiB.
const KEPT_GRAMS: usize = 8;

/// A part of a stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) tensor: Text,
    /// Stored columns of the whole tensor.
    pub(super) width: usize,
    pub(super) rows: Spans,
    pub(super) cols: Spans,
}

/// Whose Gram: of which side, of values times which factor (the bits of an `f32`).
pub(super) type GramKey = (Place, Side, u32);

/// What is remembered.
#[derive(Default)]
pub(super) struct Sums {
    /// Of values as they are stored.
    squares: Vec<(Place, Rc<Squares>)>,
    /// Oldest use first.
    grams: Vec<(GramKey, Rc<Mat<f32>>)>,
}

impl Sums {
    pub(super) fn squares_of(&self, place: &Place) -> Option<Rc<Squares>> {
        self.squares.iter().find(|(known, _)| known == place).map(|(_, s)| Rc::clone(s))
    }

    pub(super) fn keep_squares(&mut self, place: Place, squares: Rc<Squares>) {
        self.squares.push((place, squares));
    }

    pub(super) fn gram_of(&mut self, key: &GramKey) -> Option<Rc<Mat<f32>>> {
        let at = self.grams.iter().position(|(known, _)| known == key)?;
        let entry = self.grams.remove(at);
        let gram = Rc::clone(&entry.1);
        self.grams.push(entry);
        Some(gram)
    }

    pub(super) fn keep_gram(&mut self, key: GramKey, gram: Rc<Mat<f32>>) {
        if self.grams.len() == KEPT_GRAMS {
            self.grams.remove(0);
        }
        self.grams.push((key, gram));
    }

    /// Forgets a tensor that will not be asked for again.
    pub(super) fn release(&mut self, tensor: &str) {
        self.squares.retain(|(place, _)| place.tensor != tensor);
        self.grams.retain(|((place, ..), _)| place.tensor != tensor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(tensor: &str, to: usize) -> Place {
        let part = || Spans::from(0..to);
        Place { tensor: tensor.into(), width: to, rows: part(), cols: part() }
    }

    #[test]
    fn sums_are_those_of_their_part_until_the_tensor_is_released() {
        let mut sums = Sums::default();
        let squares = Rc::new(Squares { rows: vec![1.0], cols: vec![1.0] });
        sums.keep_squares(place("w", 1), Rc::clone(&squares));
        sums.keep_gram((place("w", 1), Side::Left, 0), Rc::new(Mat::identity(1, 1)));
        assert_eq!(sums.squares_of(&place("w", 1)), Some(squares));
        assert_eq!(sums.squares_of(&place("w", 2)), None);
        assert_eq!(sums.squares_of(&place("v", 1)), None);
        assert!(sums.gram_of(&(place("w", 1), Side::Left, 0)).is_some());
        for other in [(place("w", 1), Side::Right, 0), (place("w", 1), Side::Left, 1)] {
            assert!(sums.gram_of(&other).is_none());
        }
        sums.release("w");
        assert_eq!(sums.squares_of(&place("w", 1)), None);
        assert!(sums.gram_of(&(place("w", 1), Side::Left, 0)).is_none());
    }

    #[test]
    fn the_gram_used_longest_ago_makes_room() {
        let mut sums = Sums::default();
        let key = |i: usize| (place("w", i), Side::Left, 0);
        for i in 0..KEPT_GRAMS {
            sums.keep_gram(key(i), Rc::new(Mat::zeros(0, 0)));
        }
        assert!(sums.gram_of(&key(0)).is_some());
        sums.keep_gram(key(KEPT_GRAMS), Rc::new(Mat::zeros(0, 0)));
        assert!(sums.gram_of(&key(0)).is_some() && sums.gram_of(&key(1)).is_none());
    }
}
