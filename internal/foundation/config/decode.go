// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"time"
)

// decode fills the configuration from the merged values. It is our own, not a general decoder, so that every error names its key and line.
func (l *loader) decode(c *Config) error {
	l.structure(reflect.ValueOf(c).Elem(), "", l.k.Raw())
	return errors.Join(l.errs...)
}

func (l *loader) structure(v reflect.Value, path string, values map[string]any) {
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("key")
		if name == "-" {
			continue
		}
		if value, ok := values[name]; ok && value != nil {
			l.assign(v.Field(i), join(path, name), value)
		}
	}
}

var durationType = reflect.TypeFor[time.Duration]()

func (l *loader) assign(v reflect.Value, path string, value any) {
	text, isText := scalar(value)
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok && isText {
		if err := u.UnmarshalText([]byte(text)); err != nil {
			l.fail(path, "%w", err)
		}
		return
	}
	if v.Type() == durationType {
		d, err := time.ParseDuration(text)
		if !isText || err != nil || d < 0 {
			l.fail(path, "expected a duration such as 500ms, 30s or 1h, got %v", value)
			return
		}
		v.SetInt(int64(d))
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		m, ok := value.(map[string]any)
		if !ok {
			l.fail(path, "expected keys and values, got %s", describe(value))
			return
		}
		l.structure(v, path, m)
	case reflect.Slice:
		items, ok := value.([]any)
		if !ok {
			l.fail(path, "expected a list, got %s", describe(value))
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(items), len(items)))
		for i, item := range items {
			l.assign(v.Index(i), fmt.Sprintf("%s[%d]", path, i), item)
		}
	case reflect.Map:
		m, ok := value.(map[string]any)
		if !ok {
			l.fail(path, "expected keys and values, got %s", describe(value))
			return
		}
		v.Set(reflect.MakeMap(v.Type()))
		for _, name := range slices.Sorted(maps.Keys(m)) {
			item := reflect.New(v.Type().Elem()).Elem()
			l.assign(item, join(path, name), m[name])
			v.SetMapIndex(reflect.ValueOf(name), item)
		}
	default:
		if !isText {
			l.fail(path, "expected %s, got %s", kindName(v.Kind()), describe(value))
			return
		}
		if err := setScalar(v, text); err != nil {
			l.fail(path, "expected %s, got %q", kindName(v.Kind()), text)
		}
	}
}

// scalar writes a single value as text.
func scalar(value any) (string, bool) {
	switch x := value.(type) {
	case string:
		return x, true
	case bool, int, int64, uint64, float64:
		return fmt.Sprint(x), true
	}
	return "", false
}

func setScalar(v reflect.Value, text string) error {
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		v.SetBool(b)
		return err
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, 64)
		v.SetInt(n)
		return err
	case reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		v.SetFloat(f)
		return err
	default:
		return fmt.Errorf("no scalar: %s", v.Type())
	}
	return nil
}

func kindName(k reflect.Kind) string {
	switch k {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	}
	return "text"
}

func describe(value any) string {
	switch x := value.(type) {
	case []any:
		return "a list"
	case map[string]any:
		return "keys and values"
	default:
		return fmt.Sprintf("%v", x)
	}
}
