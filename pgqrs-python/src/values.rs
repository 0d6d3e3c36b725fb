//! Python values as SQLite's, and back.

use pyo3::{
    IntoPyObjectExt,
    exceptions::PyTypeError,
    prelude::*,
    types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyString, PyTuple},
};
use rusqlite::{Statement, types::Value};

/// What a statement's parameters are set to.
pub(crate) enum Parameters {
    Positional(Vec<Value>),
    Named(Vec<(String, Value)>),
}

impl Parameters {
    pub(crate) fn bind(self, statement: &mut Statement<'_>) -> rusqlite::Result<()> {
        let (expected, given) = (statement.parameter_count(), self.len());
        if expected != given {
            return Err(rusqlite::Error::InvalidParameterCount(given, expected));
        }
        match self {
            Self::Positional(values) => {
                for (index, value) in (1..).zip(values) {
                    statement.raw_bind_parameter::<usize, _>(index, value)?;
                }
            }
            Self::Named(values) => {
                for (name, value) in values {
                    let index = statement.parameter_index(&name)?;
                    let index = index.ok_or(rusqlite::Error::InvalidParameterName(name))?;
                    statement.raw_bind_parameter(index, value)?;
                }
            }
        }
        Ok(())
    }

    fn len(&self) -> usize {
        match self {
            Self::Positional(values) => values.len(),
            Self::Named(values) => values.len(),
        }
    }
}

impl<'py> FromPyObject<'_, 'py> for Parameters {
    type Error = PyErr;

    fn extract(parameters: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let Ok(named) = parameters.cast::<PyDict>() else {
            let values = parameters.try_iter()?.map(|value| self::value(&value?));
            return Ok(Self::Positional(values.collect::<PyResult<_>>()?));
        };
        let entry = |(name, value): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
            let name: String = name.extract()?;
            let is_prefixed = name.starts_with([':', '@', '$']);
            Ok((if is_prefixed { name } else { format!(":{name}") }, self::value(&value)?))
        };
        Ok(Self::Named(named.iter().map(entry).collect::<PyResult<_>>()?))
    }
}

/// A row as a tuple.
pub(crate) fn row(py: Python<'_>, values: Vec<Value>) -> PyResult<Py<PyAny>> {
    let value = |value| match value {
        Value::Null => Ok(py.None()),
        Value::Integer(number) => number.into_py_any(py),
        Value::Real(number) => number.into_py_any(py),
        Value::Text(text) => text.into_py_any(py),
        Value::Blob(bytes) => PyBytes::new(py, &bytes).into_py_any(py),
    };
    let values: PyResult<Vec<_>> = values.into_iter().map(value).collect();
    PyTuple::new(py, values?)?.into_py_any(py)
}

fn value(value: &Bound<'_, PyAny>) -> PyResult<Value> {
    if value.is_none() {
        Ok(Value::Null)
    } else if let Ok(truth) = value.cast::<PyBool>() {
        Ok(Value::Integer(truth.is_true().into()))
    } else if value.is_instance_of::<PyInt>() {
        Ok(Value::Integer(value.extract()?))
    } else if let Ok(number) = value.cast::<PyFloat>() {
        Ok(Value::Real(number.value()))
    } else if value.is_instance_of::<PyString>() {
        Ok(Value::Text(value.extract()?))
    } else if let Ok(bytes) = value.cast::<PyBytes>() {
        Ok(Value::Blob(bytes.as_bytes().to_vec()))
    } else {
        let kind = value.get_type().name()?;
        Err(PyTypeError::new_err(format!(
            "a {kind} is no SQLite value; make it None, bool, int, float, str or bytes"
        )))
    }
}
