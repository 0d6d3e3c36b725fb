//! How statements are written down: named, documented, and rendered once for a schema.

/// Declares `Statements` with a field for each; a `PARTS` must be in scope.
macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident = $sql:expr;)*) => {
        /// The statements, rendered for one schema.
        #[derive(Debug)]
        pub(crate) struct Statements {
            schema: String,
            $($(#[$doc])* pub(crate) $name: String,)*
        }

        impl Statements {
            /// Renders them for the schema of this name.
            pub(crate) fn new(schema: &str) -> Self {
                let schema = format!("\"{}\"", schema.replace('"', "\"\""));
                Self { $($name: $crate::statements::render($sql, PARTS, &schema),)* schema }
            }

            /// Renders other SQL for the same schema.
            pub(crate) fn render(&self, sql: &str) -> String {
                $crate::statements::render(sql, PARTS, &self.schema)
            }
        }
    };
}

pub(crate) use statements;

/// Puts parts and schema in. A sequence is named in a string, where quotes stand doubled.
pub(crate) fn render(sql: &str, parts: &[(&str, &str)], schema: &str) -> String {
    let put_in = |sql: String, (name, part): &(&str, &str)| sql.replace(name, part);
    let quoted = format!("'{}.", schema.replace('\'', "''"));
    let sql = parts.iter().fold(sql.to_owned(), put_in);
    sql.replace("'{schema}.", &quoted).replace("{schema}", schema)
}
