//! Wire <-> domain, one file per noun. From the wire everything is checked here that the types do not say; checks that
//! need the collection stand in [`crate::schema`] and [`crate::filter`].

mod aggregate;
mod collection;
mod encoded;
mod filter;
mod fulltext;
mod patch;
mod placement;
mod record;
mod search;
mod tenant;

pub use aggregate::{aggregations_from_wire, counted_to_wire};
pub use collection::{
    collection_from_wire, collection_to_wire, fields_from_wire, fields_to_wire, spec_from_wire, spec_to_wire,
};
pub use encoded::{Told, decode_record, encode_record, key_of_encoded};
pub use filter::{filter_from_wire, filter_to_wire};
pub use fulltext::{clause_to_wire, clauses_from_wire, kin_from_wire, kin_to_wire, text_query_from_wire};
pub use patch::{edit_from_wire, edit_to_wire, patch_from_wire, patch_to_wire};
pub use placement::{
    map_from_wire, map_to_wire, node_from_wire, node_to_wire, placement_from_wire, placement_to_wire,
};
pub use record::{
    key_from_wire, key_to_wire, record_from_wire, record_to_wire, value_from_wire, value_to_wire,
    vector_from_wire, vector_to_wire, write_mode_from_wire,
};
pub use search::check_effort;
pub use tenant::{limits_from_wire, limits_to_wire, tenancy_from_wire, tenancy_to_wire};
