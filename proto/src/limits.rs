//! Every bound of the API, in one place. Each is checked before anything of that size is allocated, and each refusal
//! names the field, the limit and the value.

/// Dimensions of a dense vector, at most.
pub const DIMS_MAX: u32 = 65_536;
/// Pairs of a sparse vector, at most.
pub const SPARSE_PAIRS_MAX: usize = 16_384;
/// Vectors of a multivector, at most.
pub const MULTI_VECTORS_MAX: usize = 2_048;
/// Components of all vectors of a multivector together, at most.
pub const MULTI_VALUES_MAX: usize = 262_144;
/// Named vectors of one collection, at most.
pub const VECTORS_MAX: usize = 16;
/// Declared fields of one collection, at most.
pub const FIELDS_MAX: usize = 256;
/// Paths of a payload that a read names, at most.
pub const PROJECTION_MAX: usize = 64;
/// Bytes of a collection's, vector's or field's name, at most.
pub const NAME_BYTES_MAX: usize = 255;
/// Bytes of a text key, at most.
pub const KEY_BYTES_MAX: usize = 1_024;
/// Bytes of one record's payload as stored, at most.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Levels of lists and maps in a payload, at most.
pub const PAYLOAD_DEPTH_MAX: usize = 32;
/// Levels of values or of conditions that a stored form or a peer's may have to be decoded at all: more than is admitted.
pub const NESTING_MAX: usize = 64;
/// Records of one upsert, keys of one get or delete, at most.
pub const BATCH_MAX: usize = 1_000;
/// Paths that one patch sets and unsets, at most.
pub const PATCH_PATHS_MAX: usize = 256;
/// Records of one partition that a patch by filter may match, at most: it is done whole or not at all.
pub const PATCH_MATCHES_MAX: usize = 10_000;
/// Bytes that the records of one partition may have after a patch, at most, all of those that it changes together.
pub const PATCH_BYTES_MAX: usize = 64 << 20;
/// Bytes of the records that replacements hold back in one partition until they are committed, at most.
pub const REPLACE_BYTES_MAX: u64 = 64 << 20;
/// Replacements of one collection under way, at most.
pub const REPLACES_OPEN_MAX: usize = 16;
/// Replacements of one collection that are remembered.
pub const REPLACES_KEPT_MAX: usize = 64;
/// Conflicts that one answer names; beyond, they are only counted.
pub const CONFLICTS_MAX: usize = 1_000;
/// Milliseconds since 1970 at which a record may expire: at most, the end of the year 9999.
pub const EXPIRES_AT_MS_MAX: u64 = 253_402_300_799_999;
/// Milliseconds that records of an upsert may live, at most: 100 years.
pub const TTL_MS_MAX: u64 = 3_155_760_000_000;
/// `limit` of a search, and `offset + limit`, at most.
pub const LIMIT_MAX: u32 = 10_000;
/// `limit` of a search that names none.
pub const LIMIT_DEFAULT: u32 = 10;
/// Examples of a recommendation, positive and negative together, at most.
pub const EXAMPLES_MAX: usize = 100;
/// Hits of one group, at most.
pub const GROUP_SIZE_MAX: u32 = 100;
/// Hits of one group in a search that does not say.
pub const GROUP_SIZE_DEFAULT: u32 = 3;
/// Bytes of a text that makes a group, at most.
pub const GROUP_BYTES_MAX: usize = 1_024;
/// Aggregations of one request, those within others included, at most.
pub const AGGREGATIONS_MAX: usize = 64;
/// Levels of aggregations, at most.
pub const AGGREGATION_DEPTH_MAX: usize = 3;
/// Groups of terms in an answer, at most.
pub const TERMS_MAX: u32 = 10_000;
/// Groups of terms in an answer where the request does not say.
pub const TERMS_DEFAULT: u32 = 10;
/// Ranges of one aggregation, at most.
pub const RANGES_MAX: usize = 256;
/// Percents of one aggregation, at most.
pub const PERCENTS_MAX: usize = 64;
/// Groups that a partition tells apart for one aggregation, at most.
pub const GROUPS_MAX: usize = 1_000_000;
/// Groups without a record in the histograms of one answer, all together, at most.
pub const EMPTY_GROUPS_MAX: usize = 100_000;
/// Bytes that a partition's groups and figures may take for one request, at most.
pub const TALLY_BYTES_MAX: usize = 128 << 20;
/// Bytes of a text that tell its place in an order.
pub const ORDER_BYTES_MAX: usize = 32 << 10;
/// `limit` of a page that names none.
pub const PAGE_DEFAULT: u32 = 100;
/// `ef` of a search, `ef_construction` of an index, at most.
pub const EF_MAX: u32 = 65_536;
/// `oversampling` of a search, at most.
pub const OVERSAMPLING_MAX: f32 = 100.0;
/// `m` of an index: at least, at most.
pub const M_RANGE: (u32, u32) = (2, 256);
/// Levels of `all`, `any` and `not` in a filter, at most.
pub const FILTER_DEPTH_MAX: usize = 32;
/// Conditions in a filter, at most.
pub const FILTER_NODES_MAX: usize = 1_024;
/// Values of one `in`, at most.
pub const FILTER_VALUES_MAX: usize = 10_000;
/// Bytes of a pattern in a filter, at most: a value is compared with each of its characters at worst.
pub const GLOB_BYTES_MAX: usize = 256;
/// Bytes of a query of full-text search or of a condition on words, at most.
pub const TEXT_QUERY_BYTES_MAX: usize = 4_096;
/// Words of such a query, at most.
pub const TEXT_WORDS_MAX: usize = 64;
/// Bytes of a word, as it is written, at most: longer ones are in no index.
pub const TEXT_WORD_BYTES_MAX: usize = 39;
/// Words that those of one query stand for, with a prefix or with edits, at most.
pub const TEXT_KIN_MAX: usize = 1_000;
/// Such words that a partition lists for one query, at most: of those that most records have.
pub const TEXT_LISTED_MAX: usize = 20_000;
/// Edits that a word found may be away from one asked for, at most.
pub const FUZZY_EDITS_MAX: u32 = 2;
/// What one of two fused lists may weigh, at most.
pub const FUSION_WEIGHT_MAX: f32 = 1_000_000.0;
/// Passages of one hit that show the words found, at most.
pub const HIGHLIGHT_FRAGMENTS_MAX: u32 = 100;
/// Characters of such a passage, at most.
pub const HIGHLIGHT_CHARS_MAX: u32 = 10_000;
/// Characters of such a passage where nobody says otherwise.
pub const HIGHLIGHT_CHARS_DEFAULT: u32 = 150;
/// Bytes of what stands before or behind a word found, at most.
pub const HIGHLIGHT_MARK_BYTES_MAX: usize = 64;
/// Bytes of a filter's text form, at most.
pub const FILTER_TEXT_BYTES_MAX: usize = 1 << 20;
/// Collections of one cluster, at most.
pub const COLLECTIONS_MAX: usize = 1_000;
/// Partitions of one collection, at most.
pub const PARTITIONS_MAX: u32 = 256;
/// How many voting replicas a partition may have.
pub const REPLICATION_FACTORS: [u32; 4] = [1, 2, 3, 5];
/// Voting replicas of a partition where nobody says otherwise and there are nodes enough.
pub const REPLICATION_FACTOR_DEFAULT: u32 = 3;
/// Nodes of one cluster, at most.
pub const NODES_MAX: usize = 1_024;
/// Lag of a bounded read in milliseconds: at most, and when the caller does not say.
pub const LAG_MS_MAX: u64 = 3_600_000;
/// See [`LAG_MS_MAX`].
pub const LAG_MS_DEFAULT: u64 = 5_000;
/// Commit tokens in one read, at most.
pub const TOKENS_MAX: usize = 1_024;
/// Partitions of a collection that asks for none, in the embedded tier.
pub const PARTITIONS_DEFAULT: u32 = 4;
/// Bytes of one gRPC message, at most, in either direction.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Slots of each collection.
pub const SLOTS: usize = 1_024;

/// Hash functions that number a bucket, at most.
pub const LSH_COARSE_MAX: u32 = 20;
/// Hash functions that tell the rows of a bucket apart, at most.
pub const LSH_FINE_MAX: u32 = 64;
