//! Python values to JSON text and back. What JSON cannot hold is refused by name and place, before
//! anything is written.

use std::fmt::Write;

use pyo3::{
    IntoPyObjectExt,
    prelude::*,
    types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple},
};
use serde_json::Value;

use crate::error;

/// The deepest nesting that parsers of stored payloads accept.
const MAX_DEPTH: usize = 127;

/// `value` as compact JSON text.
pub(crate) fn encode(value: &Bound<'_, PyAny>) -> PyResult<String> {
    let mut text = String::new();
    Encoder { text: &mut text, path: Vec::new() }.value(value)?;
    Ok(text)
}

/// A parsed value as Python objects.
pub(crate) fn decode(py: Python<'_>, value: &Value) -> PyResult<Py<PyAny>> {
    match value {
        Value::Null => Ok(py.None()),
        Value::Bool(truth) => truth.into_py_any(py),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => number.into_py_any(py),
            (None, Some(number)) => number.into_py_any(py),
            (None, None) => number.as_f64().into_py_any(py),
        },
        Value::String(text) => text.into_py_any(py),
        Value::Array(items) => {
            let list = PyList::empty(py);
            for item in items {
                list.append(decode(py, item)?)?;
            }
            list.into_py_any(py)
        }
        Value::Object(members) => decode_object(py, members)?.into_py_any(py),
    }
}

/// A parsed object as a dict.
pub(crate) fn decode_object<'py>(
    py: Python<'py>,
    members: &serde_json::Map<String, Value>,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (key, member) in members {
        dict.set_item(key, decode(py, member)?)?;
    }
    Ok(dict)
}

/// Stored text as Python objects; text that is no JSON as a `str`, for the operator to see.
pub(crate) fn decode_stored(py: Python<'_>, text: &str) -> PyResult<Py<PyAny>> {
    match serde_json::from_str(text) {
        Ok(value) => decode(py, &value),
        Err(_) => text.into_py_any(py),
    }
}

struct Encoder<'t, 'py> {
    text: &'t mut String,
    /// The keys and indexes that lead to the value at hand.
    path: Vec<Bound<'py, PyAny>>,
}

impl<'py> Encoder<'_, 'py> {
    fn value(&mut self, value: &Bound<'py, PyAny>) -> PyResult<()> {
        if value.is_none() {
            self.text.push_str("null");
        } else if let Ok(text) = value.cast::<PyString>() {
            self.string(text)?;
        } else if let Ok(truth) = value.cast::<PyBool>() {
            self.text.push_str(if truth.is_true() { "true" } else { "false" });
        } else if let Ok(number) = value.cast::<PyInt>() {
            self.int(number)?;
        } else if let Ok(number) = value.cast::<PyFloat>() {
            self.float(number.value())?;
        } else if let Ok(dict) = value.cast::<PyDict>() {
            self.dict(dict)?;
        } else if let Ok(list) = value.cast::<PyList>() {
            self.items(list.iter())?;
        } else if let Ok(tuple) = value.cast::<PyTuple>() {
            self.items(tuple.iter())?;
        } else {
            let kind = value.get_type().name()?;
            return self.refuse(&format!(
                "a {kind} is not JSON; make it None, bool, int, float, str, list or dict, or give a codec"
            ));
        }
        Ok(())
    }

    fn string(&mut self, value: &Bound<'py, PyString>) -> PyResult<()> {
        let Ok(value) = value.to_cow() else {
            return self.refuse("the text has a lone surrogate, which UTF-8 cannot hold");
        };
        self.text.push('"');
        let mut plain = 0;
        for (at, byte) in value.bytes().enumerate() {
            if byte >= 0x20 && byte != b'"' && byte != b'\\' {
                continue;
            }
            self.text.push_str(&value[plain..at]);
            plain = at + 1;
            match byte {
                b'"' | b'\\' => self.text.extend(['\\', char::from(byte)]),
                b'\n' => self.text.push_str("\\n"),
                b'\r' => self.text.push_str("\\r"),
                b'\t' => self.text.push_str("\\t"),
                control => write!(self.text, "\\u{control:04x}").unwrap_or_default(),
            }
        }
        self.text.push_str(&value[plain..]);
        self.text.push('"');
        Ok(())
    }

    fn int(&mut self, value: &Bound<'py, PyInt>) -> PyResult<()> {
        let number = match (value.extract::<i64>(), value.extract::<u64>()) {
            (Ok(number), _) => i128::from(number),
            (_, Ok(number)) => i128::from(number),
            _ => {
                let digits = value.call_method0("bit_length")?;
                return self.refuse(&format!(
                    "an int of {digits} bits is too large: -2**63 to 2**64-1 are kept exactly; send it as a str"
                ));
            }
        };
        write!(self.text, "{number}").unwrap_or_default();
        Ok(())
    }

    fn float(&mut self, value: f64) -> PyResult<()> {
        match serde_json::Number::from_f64(value) {
            Some(number) => write!(self.text, "{number}").unwrap_or_default(),
            None => return self.refuse(&format!("{value} is not JSON; send None or a str")),
        }
        Ok(())
    }

    fn dict(&mut self, dict: &Bound<'py, PyDict>) -> PyResult<()> {
        self.text.push('{');
        for (position, (key, value)) in dict.iter().enumerate() {
            self.separate(position);
            self.enter(key.clone())?;
            let Ok(key) = key.cast::<PyString>() else {
                let kind = key.get_type().name()?;
                return self.refuse(&format!("keys are str in JSON, not {kind}"));
            };
            self.string(key)?;
            self.text.push(':');
            self.value(&value)?;
            self.path.pop();
        }
        self.text.push('}');
        Ok(())
    }

    fn items(&mut self, items: impl Iterator<Item = Bound<'py, PyAny>>) -> PyResult<()> {
        self.text.push('[');
        for (position, value) in items.enumerate() {
            self.separate(position);
            self.enter(position.into_bound_py_any(value.py())?)?;
            self.value(&value)?;
            self.path.pop();
        }
        self.text.push(']');
        Ok(())
    }

    fn separate(&mut self, position: usize) {
        if position > 0 {
            self.text.push(',');
        }
    }

    fn enter(&mut self, step: Bound<'py, PyAny>) -> PyResult<()> {
        if self.path.len() == MAX_DEPTH - 1 {
            return Err(error::payload(&format!(
                "the payload is nested deeper than {MAX_DEPTH} levels, or contains itself"
            )));
        }
        self.path.push(step);
        Ok(())
    }

    fn refuse(&self, why: &str) -> PyResult<()> {
        let mut place = String::from("payload");
        for step in &self.path {
            write!(place, "[{}]", step.repr()?).unwrap_or_default();
        }
        Err(error::payload(&format!("{place}: {why}")))
    }
}
