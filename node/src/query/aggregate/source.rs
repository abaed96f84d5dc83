//! The cells of each field that an aggregation names, for one block of rows at a time.

use flotilla_proto::aggregate::{Datum, Field, Named};
use flotilla_proto::record::{Payload, reach};
use flotilla_proto::schema::uuid_text;
use rustc_hash::FxHashMap;

use crate::storage::{Cell, Fault, FieldColumn, Scratch, SegmentView};

/// The fields of one segment.
pub(super) struct Sources<'a> {
    fields: Vec<Source<'a>>,
    scratch: Scratch,
    payloads: Vec<Option<Payload>>,
}

/// One field.
pub(super) struct Source<'a> {
    field: &'a Field,
    column: Option<FieldColumn>,
    /// Terms of the column.
    terms: u64,
    /// Texts that payloads told, numbered after the column's terms.
    texts: Vec<String>,
    numbers: FxHashMap<String, u64>,
    /// Where the cells of each place begin, and where the last ones end.
    starts: Vec<u32>,
    cells: Vec<Cell>,
}

impl<'a> Sources<'a> {
    /// The fields that the aggregations name, each once.
    pub(super) fn open(segment: &dyn SegmentView, aggregations: &'a [Named]) -> Result<Sources<'a>, Fault> {
        let mut sources = Sources { fields: Vec::new(), scratch: Scratch::default(), payloads: Vec::new() };
        let mut left: Vec<&'a Named> = aggregations.iter().collect();
        while let Some(named) = left.pop() {
            left.extend(&named.aggregation.nested);
            let Some(field) = &named.aggregation.field else { continue };
            if sources.fields.iter().all(|source| source.field.name != field.name) {
                let column = segment.column(&field.name)?;
                let terms = column.as_ref().map_or(0, FieldColumn::terms);
                sources.fields.push(Source {
                    field,
                    column,
                    terms,
                    texts: Vec::new(),
                    numbers: FxHashMap::default(),
                    starts: Vec::new(),
                    cells: Vec::new(),
                });
            }
        }
        Ok(sources)
    }

    /// The number of a field.
    pub(super) fn number(&self, field: &Field) -> Option<usize> {
        self.fields.iter().position(|source| source.field.name == field.name)
    }

    /// The field of this number.
    pub(super) fn field(&self, number: usize) -> Option<&Source<'a>> {
        self.fields.get(number)
    }

    /// Reads the cells of these rows, ascending.
    pub(super) fn load(&mut self, segment: &dyn SegmentView, rows: &[u32]) -> Result<(), Fault> {
        let Sources { fields, scratch, payloads } = self;
        payloads.clear();
        payloads.resize_with(rows.len(), || None);
        for source in fields {
            source.load(segment, rows, scratch, payloads)?;
        }
        Ok(())
    }
}

impl Source<'_> {
    fn load(
        &mut self,
        segment: &dyn SegmentView,
        rows: &[u32],
        scratch: &mut Scratch,
        payloads: &mut [Option<Payload>],
    ) -> Result<(), Fault> {
        self.starts.clear();
        self.cells.clear();
        match self.column.take() {
            Some(column) if column.is_whole() => {
                self.read(&column, rows, scratch);
                self.column = Some(column);
            }
            Some(column) => {
                self.read(&column, rows, scratch);
                let (starts, cells) = (std::mem::take(&mut self.starts), std::mem::take(&mut self.cells));
                for (place, row) in rows.iter().enumerate() {
                    self.starts.push(self.cells.len() as u32);
                    if column.is_odd(*row) {
                        self.decode(segment, *row, place, payloads)?;
                    } else {
                        let range = starts[place] as usize..starts[place + 1] as usize;
                        self.cells.extend_from_slice(&cells[range]);
                    }
                }
                self.starts.push(self.cells.len() as u32);
                self.column = Some(column);
            }
            None => {
                for (place, row) in rows.iter().enumerate() {
                    self.starts.push(self.cells.len() as u32);
                    self.decode(segment, *row, place, payloads)?;
                }
                self.starts.push(self.cells.len() as u32);
            }
        }
        Ok(())
    }

    /// The cells of the column.
    fn read(&mut self, column: &FieldColumn, rows: &[u32], scratch: &mut Scratch) {
        let (starts, cells) = (&mut self.starts, &mut self.cells);
        column.read(rows, scratch, |place, cell| {
            while starts.len() <= place as usize {
                starts.push(cells.len() as u32);
            }
            cells.push(cell);
        });
        while starts.len() <= rows.len() {
            starts.push(cells.len() as u32);
        }
    }

    /// The cells that the payload tells.
    fn decode(
        &mut self,
        segment: &dyn SegmentView,
        row: u32,
        place: usize,
        payloads: &mut [Option<Payload>],
    ) -> Result<(), Fault> {
        let Some(payload) = payloads.get_mut(place) else { return Ok(()) };
        let payload = match payload {
            Some(payload) => payload,
            None => payload.insert(segment.payload(row)?),
        };
        let Source { field, terms, texts, numbers, cells, .. } = self;
        let mut numbered = |text: String| match numbers.get(&text) {
            Some(number) => *number,
            None => {
                let number = *terms + texts.len() as u64;
                texts.push(text.clone());
                numbers.insert(text, number);
                number
            }
        };
        reach(payload, &field.path, &mut |value| {
            cells.extend(Datum::of(value, field.kind).map(|datum| match datum {
                Datum::Truth(truth) => Cell::Truth(truth),
                Datum::Whole(whole) => Cell::Whole(whole),
                Datum::Float(float) => Cell::Float(float),
                Datum::Time(micros) => Cell::Time(micros),
                Datum::Map => Cell::Map,
                Datum::Text(text) => Cell::Term(numbered(text.to_owned())),
                // As the column would hold it.
                Datum::Uuid(id) => Cell::Term(numbered(uuid_text(id))),
            }));
            false
        });
        Ok(())
    }

    /// The cells of the row at this place of the block.
    pub(super) fn cells(&self, place: u32) -> &[Cell] {
        let bound = |at: usize| self.starts.get(at).map_or(0, |start| *start as usize);
        self.cells.get(bound(place as usize)..bound(place as usize + 1)).unwrap_or_default()
    }

    /// The cells of the whole block, if every row has exactly one.
    pub(super) fn singles(&self) -> Option<&[Cell]> {
        let is_single = self.starts.iter().enumerate().all(|(at, start)| *start as usize == at);
        (is_single && self.starts.len() == self.cells.len() + 1).then_some(&self.cells)
    }

    /// Terms of the column.
    pub(super) fn terms(&self) -> u64 {
        self.terms
    }

    /// All different beginnings of the column's terms, as [`FieldColumn::prefixes`] tells them.
    pub(super) fn prefixes(&self, chars: usize) -> Result<Vec<(String, u64)>, Fault> {
        self.column.as_ref().map_or(Ok(vec![]), |column| column.prefixes(chars))
    }

    /// The text of this number, if a payload told it and no column.
    pub(super) fn told(&self, number: u64) -> Option<&str> {
        let at = usize::try_from(number.checked_sub(self.terms)?).ok()?;
        self.texts.get(at).map(String::as_str)
    }

    /// The texts of these numbers (ascending, each once), in their order.
    pub(super) fn texts(&self, numbers: &[u64]) -> Result<Vec<String>, Fault> {
        let cut = numbers.partition_point(|number| *number < self.terms);
        let mut texts = Vec::with_capacity(numbers.len());
        if let Some(column) = &self.column {
            column.texts(&numbers[..cut], |text| texts.push(text.to_owned()))?;
        }
        texts.extend(numbers[cut..].iter().filter_map(|number| self.told(*number)).map(str::to_owned));
        Ok(texts)
    }

    /// The hashes that tell these texts apart.
    pub(super) fn hashes(&self, numbers: &[u64], mut seen: impl FnMut(u64)) -> Result<(), Fault> {
        let cut = numbers.partition_point(|number| *number < self.terms);
        let mut hash = |text: &str| Datum::Text(text).hash().into_iter().for_each(&mut seen);
        if let Some(column) = &self.column {
            column.texts(&numbers[..cut], &mut hash)?;
        }
        numbers[cut..].iter().filter_map(|number| self.told(*number)).for_each(hash);
        Ok(())
    }
}

/// A cell as a datum; text is empty, since its number stands for it.
pub(super) fn datum(cell: Cell) -> Datum<'static> {
    match cell {
        Cell::Whole(whole) => Datum::Whole(whole),
        Cell::Float(float) => Datum::Float(float),
        Cell::Truth(truth) => Datum::Truth(truth),
        Cell::Time(micros) => Datum::Time(micros),
        Cell::Term(_) => Datum::Text(""),
        Cell::Map => Datum::Map,
    }
}
