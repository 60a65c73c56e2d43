package flags

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Value is where the value of a flag goes.
type Value interface {
	// Set reads a value. The error says what to write.
	Set(text string) error
	// String returns the value as Set takes it.
	String() string
	// JSON returns the value as JSON has it: a string, a bool, a number or a []string.
	// A duration is a string.
	JSON() any
}

// Text returns the Value of a string.
func Text[T ~string](to *T) Value { return textValue[T]{to} }

type textValue[T ~string] struct{ to *T }

func (v textValue[T]) Set(text string) error { *v.to = T(text); return nil }
func (v textValue[T]) String() string        { return string(*v.to) }
func (v textValue[T]) JSON() any             { return v.String() }

// OneOf returns the Value of a string that has one of a few values.
func OneOf[T ~string](to *T, values ...T) Value { return enumValue[T]{to, values} }

type enumValue[T ~string] struct {
	to     *T
	values []T
}

func (v enumValue[T]) Set(text string) error {
	if !slices.Contains(v.values, T(text)) {
		last := len(v.values) - 1
		names := make([]string, len(v.values))
		for i := range v.values {
			names[i] = string(v.values[i])
		}
		return fmt.Errorf("use %s or %s", strings.Join(names[:last], ", "), names[last])
	}
	*v.to = T(text)
	return nil
}

func (v enumValue[T]) String() string { return string(*v.to) }
func (v enumValue[T]) JSON() any      { return v.String() }

// Path returns the Value of the name of a file. It reads ~/ as the home
// directory, which a shell does not do within --config=~/a.yaml.
func Path(to *string) Value { return pathValue{to} }

type pathValue struct{ to *string }

func (v pathValue) Set(text string) error {
	if below, ok := strings.CutPrefix(text, "~/"); ok {
		home, err := os.UserHomeDir()
		if err != nil {
			return fmt.Errorf("the home directory is not known (%w); write the whole path", err)
		}
		text = filepath.Join(home, below)
	}
	*v.to = text
	return nil
}

func (v pathValue) String() string { return *v.to }
func (v pathValue) JSON() any      { return *v.to }

// Bool returns the Value of a bool. On the command line the flag alone says true.
func Bool(to *bool) Value { return boolValue{to} }

type boolValue struct{ to *bool }

func (v boolValue) Set(text string) error {
	switch strings.ToLower(text) {
	case "true", "t", "yes", "on", "1":
		*v.to = true
	case "false", "f", "no", "off", "0":
		*v.to = false
	default:
		return errors.New("write true or false")
	}
	return nil
}

func (v boolValue) String() string { return strconv.FormatBool(*v.to) }
func (v boolValue) JSON() any      { return *v.to }

// Number returns the Value of a whole number. Its digits may be grouped, as in
// 1_000_000.
func Number[T int | int64 | uint64](to *T) Value { return numberValue[T]{to} }

type numberValue[T int | int64 | uint64] struct{ to *T }

func (v numberValue[T]) Set(text string) error {
	digits := strings.ReplaceAll(text, "_", "")
	var n T
	var err error
	if unsigned := ^T(0) > 0; unsigned {
		var u uint64
		u, err = strconv.ParseUint(digits, 10, 64)
		n = T(u)
	} else {
		var i int64
		i, err = strconv.ParseInt(digits, 10, 64)
		n = T(i)
		if int64(n) != i {
			err = strconv.ErrRange
		}
	}
	switch {
	case errors.Is(err, strconv.ErrRange):
		return errors.New("the number is too large")
	case err != nil:
		return fmt.Errorf("write a whole number, such as %v", max(*v.to, 1))
	}
	*v.to = n
	return nil
}

func (v numberValue[T]) String() string { return fmt.Sprint(*v.to) }
func (v numberValue[T]) JSON() any      { return *v.to }

// Duration returns the Value of a duration, such as 50ms.
func Duration(to *time.Duration) Value { return durationValue{to} }

type durationValue struct{ to *time.Duration }

func (v durationValue) Set(text string) error {
	d, err := time.ParseDuration(text)
	if err != nil {
		return errors.New("write a number and its unit, such as 50ms, 2s or 1m")
	}
	*v.to = d
	return nil
}

// String is that of time.Duration without the zeros at its end: 1h, not 1h0m0s.
func (v durationValue) String() string {
	text := v.to.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func (v durationValue) JSON() any { return v.String() }

// List returns the Value of several strings, with spaces between them. On the
// command line the flag may be repeated.
func List(to *[]string) Value { return listValue{to} }

type listValue struct{ to *[]string }

func (v listValue) Set(text string) error { *v.to = strings.Fields(text); return nil }
func (v listValue) String() string        { return strings.Join(*v.to, " ") }
func (v listValue) JSON() any             { return append([]string{}, *v.to...) }

// Lines returns the Value of several strings that may hold spaces: each time the
// command line has the flag, it adds one.
func Lines(to *[]string) Value { return linesValue{to} }

type linesValue struct{ to *[]string }

func (v linesValue) Set(text string) error { *v.to = strings.Split(text, "\n"); return nil }
func (v linesValue) String() string        { return strings.Join(*v.to, "\n") }
func (v linesValue) JSON() any             { return append([]string{}, *v.to...) }

// Float returns the Value of a number that may have a fraction.
func Float(to *float64) Value { return floatValue{to} }

type floatValue struct{ to *float64 }

func (v floatValue) Set(text string) error {
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return errors.New("write a number, such as 0.5")
	}
	*v.to = n
	return nil
}

func (v floatValue) String() string { return strconv.FormatFloat(*v.to, 'g', -1, 64) }
func (v floatValue) JSON() any      { return *v.to }
