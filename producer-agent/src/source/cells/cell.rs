//! The cells of a row, as they lie in its text.
//!
//! Owns the memory of one row: its text, and beside it what the text does not have letter by letter (a doubled quote, an
//! escape). The next row takes the same memory, so that no cell is allocated by itself. It knows no form of a file.

use std::borrow::Cow;
use std::ops::Range;

/// The content of one cell; `T` is its text, or where that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell<T> {
    /// Text of a delimited file, unchanged.
    Plain(T),
    /// A string of JSON.
    Text(T),
    /// A number of JSON, digit by digit.
    Number(T),
    /// `true` or `false` of JSON.
    Boolean(bool),
    /// `null` of JSON.
    Null,
    /// An array or an object of JSON.
    Nested,
    /// Bytes that are not of the file's encoding; the encoding that they look like, where there is one.
    Undecodable(Option<&'static str>),
    /// A string of JSON that holds half a surrogate pair, or another invalid escape.
    BadEscape,
}

impl<T> Cell<T> {
    const fn as_ref(&self) -> Cell<&T> {
        match self {
            Self::Plain(of) => Cell::Plain(of),
            Self::Text(of) => Cell::Text(of),
            Self::Number(of) => Cell::Number(of),
            Self::Boolean(value) => Cell::Boolean(*value),
            Self::Null => Cell::Null,
            Self::Nested => Cell::Nested,
            Self::Undecodable(looks_like) => Cell::Undecodable(*looks_like),
            Self::BadEscape => Cell::BadEscape,
        }
    }

    fn with<U>(self, text: impl FnOnce(T) -> U) -> Cell<U> {
        match self {
            Self::Plain(of) => Cell::Plain(text(of)),
            Self::Text(of) => Cell::Text(text(of)),
            Self::Number(of) => Cell::Number(text(of)),
            Self::Boolean(value) => Cell::Boolean(value),
            Self::Null => Cell::Null,
            Self::Nested => Cell::Nested,
            Self::Undecodable(looks_like) => Cell::Undecodable(looks_like),
            Self::BadEscape => Cell::BadEscape,
        }
    }
}

impl Cell<Cow<'_, str>> {
    pub(in crate::source) fn borrowed(&self) -> Cell<&str> {
        self.as_ref().with(|text| text.as_ref())
    }
}

/// Where a cell's text is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum TextRange {
    /// In the row's text.
    Within(Range<usize>),
    /// In what is kept beside it.
    Beside(Range<usize>),
}

/// What is taken of a cell so far.
#[derive(Debug, Clone, PartialEq, Eq)]
enum OpenCell {
    /// A piece of the row's text.
    Within(Range<usize>),
    /// All that is kept beside it, from here on.
    Beside(usize),
}

/// A cell's place in the row's text, with its quotes, and its content.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    outer: Range<usize>,
    content: Cell<TextRange>,
}

/// The cells of a row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cells {
    text: String,
    /// Texts that the row's text does not have letter by letter.
    beside: String,
    places: Vec<Place>,
    /// The members' names, where the row is an object.
    names: Option<Vec<Range<usize>>>,
    /// The cell that is being put together.
    open: Option<OpenCell>,
}

impl Cells {
    /// Of a delimited row, in the order of the header.
    pub fn ordered(cells: &[&str]) -> Self {
        let mut ordered = Self::default();
        for cell in cells {
            let content = Cell::Plain(TextRange::Beside(ordered.put_beside(cell)));
            ordered.places.push(Place { outer: 0..0, content });
        }
        ordered
    }

    /// Of an object.
    pub fn named<'c>(members: impl IntoIterator<Item = (&'c str, Cell<&'c str>)>) -> Self {
        let mut named = Self { names: Some(Vec::new()), ..Self::default() };
        members.into_iter().for_each(|(name, cell)| named.push_member(name, cell, 0..0));
        named
    }

    /// Adds a member; `outer` is where its value lies in the row's text.
    pub(in crate::source) fn push_member(&mut self, name: &str, cell: Cell<&str>, outer: Range<usize>) {
        let name = self.put_beside(name);
        self.names.get_or_insert_default().push(name);
        let content = cell.with(|text| TextRange::Beside(self.put_beside(text)));
        self.places.push(Place { outer, content });
    }

    /// Forgets the row, and keeps its text and all memory.
    pub(in crate::source) fn forget(&mut self) {
        self.forget_cells();
        self.names = None;
    }

    /// Forgets the cells of a delimited row.
    pub(in crate::source) fn forget_cells(&mut self) {
        self.beside.clear();
        self.places.clear();
        self.open = None;
    }

    /// Begins an object.
    pub(in crate::source) fn begin_named(&mut self) {
        self.names = Some(Vec::new());
    }

    /// Takes a row's text; gives the one before.
    pub(in crate::source) const fn replace_text(&mut self, text: String) -> String {
        std::mem::replace(&mut self.text, text)
    }

    /// The row's text.
    pub(in crate::source) fn text(&self) -> &str {
        &self.text
    }

    /// Adds a line to the row's text.
    pub(in crate::source) fn push_line(&mut self, line: &str) {
        self.text.push_str(line);
    }

    /// Adds a piece of the row's text to the cell that is being put together.
    pub(in crate::source) fn take(&mut self, piece: Range<usize>) {
        match &mut self.open {
            None => self.open = Some(OpenCell::Within(piece)),
            Some(OpenCell::Within(taken)) if taken.end == piece.start => taken.end = piece.end,
            Some(_) => {
                self.move_beside();
                self.beside.push_str(self.text.get(piece).unwrap_or_default());
            }
        }
    }

    /// Adds a character that the row's text does not have there.
    pub(in crate::source) fn take_escaped(&mut self, character: char) {
        self.move_beside();
        self.beside.push(character);
    }

    /// Moves what is taken beside the row's text, where anything can be added to it.
    fn move_beside(&mut self) {
        let start = self.beside.len();
        match &self.open {
            Some(OpenCell::Beside(_)) => return,
            Some(OpenCell::Within(taken)) => {
                self.beside.push_str(self.text.get(taken.clone()).unwrap_or_default());
            }
            None => {}
        }
        self.open = Some(OpenCell::Beside(start));
    }

    /// What is taken of the cell so far.
    fn taken(&self) -> TextRange {
        match &self.open {
            Some(OpenCell::Within(taken)) => TextRange::Within(taken.clone()),
            Some(OpenCell::Beside(start)) => TextRange::Beside(*start..self.beside.len()),
            None => TextRange::Within(0..0),
        }
    }

    /// Whether nothing but blanks is taken of the cell.
    pub(in crate::source) fn is_blank(&self) -> bool {
        self.at(&self.taken()).trim().is_empty()
    }

    /// Ends the cell that is being put together; `outer` is where it lies with its quotes.
    pub(in crate::source) fn end_cell(&mut self, outer: Range<usize>) {
        let content = Cell::Plain(self.taken());
        self.open = None;
        self.places.push(Place { outer, content });
    }

    /// Makes the cells unreadable in which one of these positions of the row's text lies.
    pub(in crate::source) fn spoil(&mut self, bad: &[(usize, usize)], looks_like: Option<&'static str>) {
        for place in &mut self.places {
            let next = bad.partition_point(|(at, _)| *at < place.outer.start);
            if bad.get(next).is_some_and(|(at, _)| *at < place.outer.end) {
                place.content = Cell::Undecodable(looks_like);
            }
        }
    }

    /// Makes each member unreadable that begins last before one of these positions; gives the first position before all
    /// members.
    pub(in crate::source) fn spoil_members(&mut self, bad: &[(usize, usize)]) -> Option<usize> {
        for (at, _) in bad {
            let place = self.places.iter_mut().take_while(|place| place.outer.start <= *at).last();
            match place {
                Some(place) => place.content = Cell::Undecodable(None),
                None => return Some(*at),
            }
        }
        None
    }

    /// Where a cell begins in the row's text.
    pub(in crate::source) fn start(&self, index: usize) -> Option<usize> {
        self.places.get(index).map(|place| place.outer.start)
    }

    /// Where the first cell of several lines begins in the row's text.
    pub(in crate::source) fn first_of_several_lines(&self) -> usize {
        let is_one = |index: &usize| matches!(self.get(*index), Some(Cell::Plain(text)) if text.contains(['\n', '\r']));
        (0..self.len()).find(is_one).and_then(|index| self.start(index)).unwrap_or(0)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether the row has no cell.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The cell at an index.
    pub fn get(&self, index: usize) -> Option<Cell<&str>> {
        self.places.get(index).map(|place| self.content(place))
    }

    /// All cells, in order.
    pub fn iter(&self) -> impl Iterator<Item = Cell<&str>> {
        self.places.iter().map(|place| self.content(place))
    }

    /// The members' names, in order; `None` for a delimited row.
    pub fn names(&self) -> Option<impl Iterator<Item = &str>> {
        let name = |range: &Range<usize>| self.beside.get(range.clone()).unwrap_or_default();
        self.names.as_ref().map(|names| names.iter().map(name))
    }

    /// The cell of a member; a delimited row has none.
    pub fn member(&self, name: &str) -> Option<Cell<&str>> {
        let index = self.names()?.position(|member| member == name)?;
        self.get(index)
    }

    fn content(&self, place: &Place) -> Cell<&str> {
        place.content.as_ref().with(|range| self.at(range))
    }

    fn at(&self, range: &TextRange) -> &str {
        match range {
            TextRange::Within(range) => self.text.get(range.clone()),
            TextRange::Beside(range) => self.beside.get(range.clone()),
        }
        .unwrap_or_default()
    }

    fn put_beside(&mut self, text: &str) -> Range<usize> {
        let start = self.beside.len();
        self.beside.push_str(text);
        start..self.beside.len()
    }
}
