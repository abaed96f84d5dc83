//! Reading `.npy` files: numpy's arrays as a stream of rows.
//!
//! Versions 1, 2 and 3; little-endian `f2 f4 f8 i4 i8 u4 u8`; C order; one dimension (rows of one value) or two.
//! Nothing is allocated for a length that the header merely claims: the header itself and a row are bounded, and
//! a matrix grows with the rows that were really there.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// The longest header read, in bytes; numpy writes 118 for a matrix.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// The widest row read, in values.
const COLUMNS_MAX: usize = 1 << 20;

/// The type of an array's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    F16,
    F32,
    F64,
    I32,
    I64,
    U32,
    U64,
}

impl Kind {
    fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "<f2" => Self::F16,
            "<f4" => Self::F32,
            "<f8" => Self::F64,
            "<i4" => Self::I32,
            "<i8" => Self::I64,
            "<u4" => Self::U32,
            "<u8" => Self::U64,
            _ => bail!("values of type {name:?} are not read (only <f2 <f4 <f8 <i4 <i8 <u4 <u8)"),
        })
    }

    fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }
}

/// An array being read row by row.
#[derive(Debug)]
pub struct NpyReader<R> {
    source: R,
    kind: Kind,
    rows: u64,
    columns: usize,
    read: u64,
    bytes: Vec<u8>,
}

/// A matrix in memory, row after row.
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// All values.
    pub data: Vec<f32>,
    /// Values per row.
    pub columns: usize,
}

/// Opens a file of the array format.
///
/// # Errors
/// The file cannot be read, is not an array, is of a kind not read here, or is shorter than its header says.
pub fn open(path: &Path) -> Result<NpyReader<BufReader<File>>> {
    let about = || format!("reading {}", path.display());
    let file = File::open(path).with_context(about)?;
    let length = file.metadata().with_context(about)?.len();
    let reader = NpyReader::new(BufReader::with_capacity(1 << 20, file)).with_context(about)?;
    let values = reader.rows.checked_mul(reader.columns as u64 * reader.kind.bytes() as u64);
    if values.is_none_or(|values| values > length) {
        bail!("{} is cut short: its header says {} x {}", path.display(), reader.rows, reader.columns);
    }
    Ok(reader)
}

/// Reads a whole file as `f32` values.
///
/// # Errors
/// As [`open`].
pub fn read_f32_matrix(path: &Path) -> Result<Matrix> {
    let mut reader = open(path)?;
    let (mut data, mut row) = (Vec::new(), Vec::new());
    while reader.next_f32(&mut row).with_context(|| format!("reading {}", path.display()))? {
        data.extend_from_slice(&row);
    }
    Ok(Matrix { data, columns: reader.columns })
}

impl<R: Read> NpyReader<R> {
    /// Reads the header and stands before the first row.
    ///
    /// # Errors
    /// The source is not an array, or not of a kind read here.
    pub fn new(mut source: R) -> Result<Self> {
        let mut start = [0; 8];
        source.read_exact(&mut start).context("too short for an .npy file")?;
        ensure!(start[..6] == *b"\x93NUMPY", "not an .npy file");
        let length = match start[6] {
            1 => u64::from(u16::from_le_bytes(read_array(&mut source)?)),
            2 | 3 => u64::from(u32::from_le_bytes(read_array(&mut source)?)),
            version => bail!(".npy version {version} is not read"),
        };
        ensure!(length <= HEADER_BYTES_MAX as u64, "an .npy header of {length} bytes is not read");
        let mut header = vec![0; length as usize];
        source.read_exact(&mut header).context("the .npy header is cut short")?;
        let header = String::from_utf8(header).context("the .npy header is not text")?;
        let kind = Kind::parse(quoted(value_of(&header, "descr")?)?)?;
        ensure!(value_of(&header, "fortran_order")?.starts_with("False"), "only C order is read");
        let (rows, columns) = shape(value_of(&header, "shape")?)?;
        Ok(Self { source, kind, rows, columns, read: 0, bytes: vec![0; columns * kind.bytes()] })
    }

    /// Rows in the array.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Values per row; 1 for an array of one dimension.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Reads the next row's bytes; false after the last.
    fn advance(&mut self) -> Result<bool> {
        if self.read == self.rows {
            return Ok(false);
        }
        let (row, rows) = (self.read, self.rows);
        self.source
            .read_exact(&mut self.bytes)
            .with_context(|| format!("row {row} of {rows} is cut short"))?;
        self.read += 1;
        Ok(true)
    }

    /// Replaces `row` with the next row as `f32` (nearest value). False after the last row.
    ///
    /// # Errors
    /// The source is cut short or cannot be read.
    pub fn next_f32(&mut self, row: &mut Vec<f32>) -> Result<bool> {
        row.clear();
        if !self.advance()? {
            return Ok(false);
        }
        match self.kind {
            Kind::F16 => row.extend(values(&self.bytes, |b| half(u16::from_le_bytes(b)))),
            Kind::F32 => row.extend(values(&self.bytes, f32::from_le_bytes)),
            Kind::F64 => row.extend(values(&self.bytes, |b| f64::from_le_bytes(b) as f32)),
            Kind::I32 => row.extend(values(&self.bytes, |b| i32::from_le_bytes(b) as f32)),
            Kind::I64 => row.extend(values(&self.bytes, |b| i64::from_le_bytes(b) as f32)),
            Kind::U32 => row.extend(values(&self.bytes, |b| u32::from_le_bytes(b) as f32)),
            Kind::U64 => row.extend(values(&self.bytes, |b| u64::from_le_bytes(b) as f32)),
        }
        Ok(true)
    }

    /// Replaces `row` with the next row of an array of integers. False after the last row.
    ///
    /// # Errors
    /// The array holds floats, a value beyond `i64`, or the source is cut short.
    pub fn next_i64(&mut self, row: &mut Vec<i64>) -> Result<bool> {
        row.clear();
        if !self.advance()? {
            return Ok(false);
        }
        match self.kind {
            Kind::I32 => row.extend(values(&self.bytes, |b| i64::from(i32::from_le_bytes(b)))),
            Kind::I64 => row.extend(values(&self.bytes, i64::from_le_bytes)),
            Kind::U32 => row.extend(values(&self.bytes, |b| i64::from(u32::from_le_bytes(b)))),
            Kind::U64 => {
                for value in values(&self.bytes, u64::from_le_bytes) {
                    row.push(i64::try_from(value).with_context(|| format!("{value} is too large"))?);
                }
            }
            Kind::F16 | Kind::F32 | Kind::F64 => bail!("the array holds floats, integers are wanted"),
        }
        Ok(true)
    }
}

fn read_array<const N: usize>(source: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    source.read_exact(&mut bytes).context("the .npy header is cut short")?;
    Ok(bytes)
}

fn values<const N: usize, T>(bytes: &[u8], decode: impl Fn([u8; N]) -> T) -> impl Iterator<Item = T> {
    bytes.as_chunks::<N>().0.iter().map(move |bytes| decode(*bytes))
}

/// What stands behind a key of the header, which is a Python dictionary: `{'descr': '<f4', 'shape': (3, 4), }`.
fn value_of<'a>(header: &'a str, key: &str) -> Result<&'a str> {
    let keys = [format!("'{key}'"), format!("\"{key}\"")];
    let after =
        keys.iter().find_map(|key| header.split_once(key.as_str())).map(|(_, after)| after.trim_start());
    let value = after.and_then(|after| after.strip_prefix(':')).map(str::trim_start);
    value.with_context(|| format!("the .npy header has no {key:?}"))
}

fn quoted(value: &str) -> Result<&str> {
    let quote = value.chars().next().filter(|quote| "'\"".contains(*quote));
    let inside = quote.and_then(|quote| value[1..].split_once(quote));
    Ok(inside.context("the .npy header's type is not a plain one")?.0)
}

/// Rows and columns.
fn shape(value: &str) -> Result<(u64, usize)> {
    let inside = value.strip_prefix('(').and_then(|value| value.split_once(')'));
    let (inside, _) = inside.context("the .npy header's shape is not a tuple")?;
    let sizes = inside.split(',').map(str::trim).filter(|size| !size.is_empty());
    let sizes = sizes.map(|size| size.parse::<u64>().with_context(|| format!("{size:?} is not a size")));
    let (rows, columns) = match sizes.collect::<Result<Vec<_>>>()?[..] {
        [rows] => (rows, 1),
        [rows, columns] => (rows, columns),
        ref sizes => bail!("arrays of {} dimensions are not read (only 1 or 2)", sizes.len()),
    };
    ensure!((1..=COLUMNS_MAX as u64).contains(&columns), "rows of {columns} values are not read");
    Ok((rows, columns as usize))
}

/// The value of a half-precision float.
fn half(bits: u16) -> f32 {
    let sign = u32::from(bits >> 15) << 31;
    let (exponent, mantissa) = (u32::from(bits >> 10 & 0x1f), u32::from(bits & 0x3ff));
    match exponent {
        0 => {
            // Zero and the subnormals: mantissa x 2^-24, exact in f32.
            let magnitude = mantissa as f32 / (1 << 24) as f32;
            f32::from_bits(sign | magnitude.to_bits())
        }
        0x1f => f32::from_bits(sign | 0xff << 23 | mantissa << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | mantissa << 13),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(version: u8, header: &str, body: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY".to_vec();
        bytes.extend([version, 0]);
        match version {
            1 => bytes.extend((header.len() as u16).to_le_bytes()),
            _ => bytes.extend((header.len() as u32).to_le_bytes()),
        }
        bytes.extend(header.as_bytes());
        bytes.extend(body);
        bytes
    }

    fn header(kind: &str, shape: &str) -> String {
        format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}          \n")
    }

    fn floats(bytes: &[u8]) -> Result<Vec<Vec<f32>>> {
        let mut reader = NpyReader::new(bytes)?;
        let (mut rows, mut row) = (Vec::new(), Vec::new());
        while reader.next_f32(&mut row)? {
            rows.push(row.clone());
        }
        Ok(rows)
    }

    #[test]
    fn reads_every_kind_and_version() {
        let f4: Vec<u8> = [1.5f32, -2.0, 0.25, 8.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        for version in 1..=3 {
            let rows = floats(&file(version, &header("<f4", "(2, 2)"), &f4)).unwrap();
            assert_eq!(rows, [[1.5, -2.0], [0.25, 8.0]]);
        }
        let cases: [(&str, Vec<u8>); 6] = [
            ("<f2", [0x3c00u16, 0xc000].iter().flat_map(|x| x.to_le_bytes()).collect()),
            ("<f8", [1.0f64, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect()),
            ("<i4", [1i32, -2].iter().flat_map(|x| x.to_le_bytes()).collect()),
            ("<i8", [1i64, -2].iter().flat_map(|x| x.to_le_bytes()).collect()),
            ("<u4", [1u32, 2].iter().flat_map(|x| x.to_le_bytes()).collect()),
            ("<u8", [1u64, 2].iter().flat_map(|x| x.to_le_bytes()).collect()),
        ];
        for (kind, body) in cases {
            let rows = floats(&file(1, &header(kind, "(2,)"), &body)).unwrap();
            assert_eq!((rows[0][0], rows[1][0].abs()), (1.0, 2.0), "{kind}");
            let bytes = file(1, &header(kind, "(1, 2)"), &body);
            let mut row = Vec::new();
            let read = NpyReader::new(&bytes[..]).unwrap().next_i64(&mut row);
            assert_eq!(read.is_ok(), !kind.contains('f'), "{kind}");
            assert!(read.is_err() || (row[0], row[1].abs()) == (1, 2), "{kind}");
        }
    }

    #[test]
    fn halves_are_exact() {
        for bits in 0..=u16::MAX {
            let (sign, exponent) = (if bits >> 15 == 1 { -1.0 } else { 1.0 }, i32::from(bits >> 10 & 31));
            let fraction = f64::from(bits & 0x3ff) / 1024.0;
            let want = match exponent {
                0 => sign * fraction * 2f64.powi(-14),
                31 if fraction == 0.0 => sign * f64::INFINITY,
                31 => f64::NAN,
                _ => sign * (1.0 + fraction) * 2f64.powi(exponent - 15),
            };
            let got = f64::from(half(bits));
            assert!(
                got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan(),
                "{bits:#x}: {got} {want}"
            );
        }
    }

    #[test]
    fn refuses_with_a_reason() {
        let says = |bytes: &[u8]| format!("{:#}", floats(bytes).unwrap_err());
        assert!(says(b"PK").contains("too short"));
        assert!(says(b"not numpy at all").contains("not an .npy"));
        assert!(says(&file(9, "", &[])).contains("version 9"));
        assert!(says(&file(1, &header("<c8", "(1,)"), &[])).contains("<c8"));
        assert!(says(&file(1, &header(">f4", "(1,)"), &[])).contains(">f4"));
        assert!(says(&file(1, &header("<f4", "(1, 2, 3)"), &[])).contains("3 dimensions"));
        assert!(says(&file(1, &header("<f4", "()"), &[])).contains("0 dimensions"));
        assert!(says(&file(1, &header("<f4", "(3, 0)"), &[])).contains("rows of 0"));
        assert!(says(&file(1, &header("<f4", "(3, 99999999999)"), &[])).contains("99999999999"));
        assert!(says(&file(1, &header("<f4", "(-1,)"), &[])).contains("-1"));
        assert!(says(&file(1, &header("<f4", "(3, 2)"), &[0; 9])).contains("row 1 of 3 is cut short"));
        assert!(says(&file(1, &header("<f4", "(2,)").replace("False", "True"), &[])).contains("C order"));
        assert!(says(&file(1, "{'descr': [('a', '<f4')]}", &[])).contains("type"));
        assert!(says(&file(1, "{}", &[])).contains("descr"));
        assert!(
            says(&[b"\x93NUMPY\x02\x00".as_slice(), &u32::MAX.to_le_bytes()].concat()).contains("header of")
        );
    }

    #[test]
    fn a_file_shorter_than_its_header_says_is_refused_before_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.npy");
        std::fs::write(&path, file(1, &header("<f4", "(1000000000, 4)"), &[0; 64])).unwrap();
        assert!(format!("{:#}", open(&path).unwrap_err()).contains("cut short"));
        std::fs::write(&path, file(1, &header("<f4", "(2, 4)"), &[0; 32])).unwrap();
        assert_eq!(read_f32_matrix(&path).unwrap(), Matrix { data: vec![0.0; 8], columns: 4 });
        assert!(open(&folder.path().join("none.npy")).is_err());
    }
}
