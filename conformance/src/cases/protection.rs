//! Tests.
use crate::case::cases;
cases! {}
