//! What was measured, and where that is written down: the figures that a plan shows beside the rules of thumb.
//!
//! Each stands in a file of `benches/results`, and a test looks it up there. They were taken at 384 dimensions with M 16; a plan for
//! other dimensions takes them in proportion and says so. `binary` is what a process got along with under a limit of memory, mapped
//! files counted: the vectors themselves are read from disk then.

use super::Codes;

/// Dimensions of the vectors that were measured.
pub const DIMS: u64 = 384;

/// A figure and its source.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// The figure.
    pub value: f64,
    /// The file below the repository.
    pub file: &'static str,
    /// As it stands there.
    pub text: &'static str,
}

/// Bytes of memory for each vector, its graph and codes included.
pub const fn memory(codes: Codes) -> Figure {
    match codes {
        Codes::None => Figure {
            value: 1_668.783_44,
            file: "benches/results/2026-11-21-engine-P.txt",
            text: "\"bytes_per_vector\":1668.78344",
        },
        Codes::Scalar => Figure {
            value: 4_173.0,
            file: "benches/results/2026-11-22-vectors.txt",
            text: "Size: 4,173 bytes per vector in memory with `scalar`",
        },
        Codes::Binary => Figure {
            value: 400.0,
            file: "benches/results/2026-11-22-memory.txt",
            text: "limit 144,855,040 bytes (400 bytes per vector and 100 MiB)",
        },
    }
}

/// Bytes of memory of a process besides its vectors, as far as they were measured.
pub const BASE_BYTES: u64 = 100 << 20;

/// Bytes of disk for each vector, with `scalar`.
pub const DISK: Figure = Figure {
    value: 4_384.0,
    file: "benches/results/2026-11-22-vectors.txt",
    text: "4,384 on disk with\nrecords",
};

/// Bytes of disk for each record without vectors.
pub const RECORD: Figure =
    Figure { value: 193.0, file: "benches/results/2026-11-22-records.txt", text: "bytes per row 193" };

/// Queries per second of a processor at a recall of 0.99, of the index alone over 100,000 vectors.
pub const QPS: Figure = Figure {
    value: 4_137.0,
    file: "benches/results/2026-11-22-quantization.txt",
    text: "recall@10 0.99: flotilla 4137 QPS/CPU-s",
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_stands_in_the_file_that_it_names() {
        let figures = [memory(Codes::None), memory(Codes::Scalar), memory(Codes::Binary), DISK, RECORD, QPS];
        for figure in figures {
            let path = format!("{}/../../{}", env!("CARGO_MANIFEST_DIR"), figure.file);
            let file = std::fs::read_to_string(&path).unwrap();
            assert!(file.contains(figure.text), "{} does not say: {}", figure.file, figure.text);
            let digits: String =
                figure.text.chars().filter(|c| c.is_ascii_digit() || *c == '.' || *c == ' ').collect();
            let told = digits.split(' ').filter_map(|word| word.trim_matches('.').parse::<f64>().ok());
            assert!(
                told.into_iter().any(|told| told == figure.value),
                "{} is not {}",
                figure.text,
                figure.value
            );
        }
    }
}
