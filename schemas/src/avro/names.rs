//! Column names of any script as Avro names: injective, stable, and readable back.
//!
//! Owns the mapping both ways. ASCII letters, digits and `_` stay. Every other character becomes `_u<HEX>_`,
//! and so do a digit at the beginning and a `_` before a `u`.

/// The Avro name of a column. Distinct columns have distinct names; an Avro name without `_u` stays as it is.
pub fn field_name(column: &str) -> String {
    let mut name = String::with_capacity(column.len());
    let mut rest = column.chars().peekable();
    while let Some(c) = rest.next() {
        let begins_escape = c == '_' && rest.peek() == Some(&'u');
        let leading_digit = name.is_empty() && c.is_ascii_digit();
        if (c.is_ascii_alphanumeric() || c == '_') && !begins_escape && !leading_digit {
            name.push(c);
        } else {
            name.push_str(&format!("_u{:X}_", u32::from(c)));
        }
    }
    if name.is_empty() { "_u_".to_owned() } else { name }
}

/// The column that a field name stands for; `None` when no column has this name.
pub fn column_name(field: &str) -> Option<String> {
    if field == "_u_" {
        return Some(String::new());
    }
    let mut column = String::with_capacity(field.len());
    let mut rest = field;
    while let Some(at) = rest.find("_u") {
        let (plain, escape) = rest.split_at(at);
        column.push_str(plain);
        let (code, after) = escape.strip_prefix("_u")?.split_once('_')?;
        column.push(u32::from_str_radix(code, 16).ok().and_then(char::from_u32)?);
        rest = after;
    }
    column.push_str(rest);
    (field_name(&column) == field).then_some(column)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_names_stay() {
        assert_eq!(field_name("regcode"), "regcode");
        assert_eq!(field_name("Domain Name"), "Domain_u20_Name");
        assert_eq!(field_name("1st"), "_u31_st");
        assert_eq!(field_name("_u20_"), "_u5F_u20_");
    }

    proptest! {
        #[test]
        fn every_column_comes_back(column in "\\PC{0,24}|[_u0-9A-F ]{0,16}") {
            let field = field_name(&column);
            prop_assert!(apache_avro::Schema::parse_str(
                &format!(r#"{{"type":"record","name":"R","fields":[{{"name":"{field}","type":"string"}}]}}"#)
            ).is_ok(), "{}", field);
            prop_assert_eq!(column_name(&field), Some(column));
        }
    }
}
