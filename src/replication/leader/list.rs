//! This node's own table as a source of a list's rows.

use std::sync::Arc;

use super::{record_of, table_refusal};
use crate::error::ReadError;
use crate::replication::fold::{RowSource, Rows};
use crate::runtime::Runtime;
use crate::storage::rows::{self, Bound};
use crate::storage::table::Table;

/// Rows of a prefix, read off the task threads: a page merges all partitions.
pub struct TableRows<'a> {
    runtime: &'a Runtime,
    table: &'a Arc<dyn Table>,
    prefix: &'a str,
}

impl<'a> TableRows<'a> {
    pub fn new(runtime: &'a Runtime, table: &'a Arc<dyn Table>, prefix: &'a str) -> TableRows<'a> {
        TableRows { runtime, table, prefix }
    }
}

impl RowSource for TableRows<'_> {
    type Error = ReadError;

    async fn step(&mut self, from: &Bound, limit: usize) -> Result<Rows, ReadError> {
        let (table, prefix, from) = (self.table.clone(), self.prefix.to_owned(), from.clone());
        let work = move || rows::page(&*table, &prefix, &from, limit);
        let page = self.runtime.blocking(work).await.map_err(table_refusal)?;
        let rows = page.into_iter().map(|(key, row)| {
            let record = record_of(&key, &row)?;
            Ok((key, record))
        });
        Ok(Rows::up_to(limit, rows.collect::<Result<_, ReadError>>()?))
    }
}
