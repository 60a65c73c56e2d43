// Package yamlfile reads configuration from YAML strictly, and says all that is
// wrong with a file at once, each with its place and the line it is on.
//
// A reader walks the file from its root by Mapping, Pairs and Items, and takes
// scalars by Text, Bool and Uint. Whatever does not fit is noted as a problem
// and read as its zero value, so that the walk goes on to find the next; the
// values mean nothing unless File.Err is nil in the end.
package yamlfile

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"github.com/ratelimitd/ratelimitd/internal/quote"
	"github.com/ratelimitd/ratelimitd/internal/spelling"
)

const (
	// maxDepth is how deep values may be nested, aliases included. Readers are
	// recursive, so without a bound a file could exhaust their stack.
	maxDepth = 1000
	// maxProblems is how many problems of one file are told. Nobody reads more,
	// and a file of nothing but problems must not fill memory and log.
	maxProblems = 100
	// maxSource is how much of a line is shown, in characters.
	maxSource = 160
)

// A File is a file that is being read. It is for one goroutine.
type File struct {
	name     string
	lines    []string
	problems Problems
	seen     map[Problem]bool // the problems, so that what an alias repeats is told once
	untold   int              // problems beyond maxProblems
	visits   int              // how many nodes may still be looked at
	stopped  bool             // whether the rest of the file reads as null: see stop
}

// Parse parses the one document that data holds, and returns its root. A file
// that is not YAML has its problem noted, and a root that is null.
func Parse(name string, data []byte) (*File, Node) {
	f := &File{
		name:  name,
		lines: strings.Split(string(data), "\n"),
		seen:  map[Problem]bool{},
		// Aliases of aliases make a small file mean a huge one. Without aliases
		// no reader needs as many.
		visits: 20*len(data) + 10_000,
	}
	if i := invalidUTF8(data); i >= 0 {
		line := bytes.Count(data[:i], []byte("\n"))
		f.add(line+1, i-bytes.LastIndexByte(data[:i], '\n'), fmt.Sprintf("byte 0x%02x is not valid UTF-8", data[i]))
		f.stopped = true
		return f, Node{file: f}
	}
	loader, err := yaml.NewLoader(bytes.NewReader(data), yaml.WithUniqueKeys(false)) // Pairs finds all of those
	if err != nil {
		panic(err) // the option is wrong
	}
	var document, another yaml.Node
	if err := loader.Load(&document); err != nil && !errors.Is(err, io.EOF) {
		f.unreadable(err)
		return f, Node{file: f}
	}
	switch err := loader.Load(&another); {
	case err == nil:
		Node{file: f, yaml: &another}.Problem("a second document begins here; a file holds one")
	case !errors.Is(err, io.EOF):
		f.unreadable(err)
	}
	if len(document.Content) == 0 { // nothing but comments
		return f, Node{file: f}
	}
	return f, Node{file: f, yaml: document.Content[0]}
}

func invalidUTF8(data []byte) int {
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

// unreadable notes why the file is not YAML, and ends the reading: there is
// nothing in it to find more problems in.
func (f *File) unreadable(err error) {
	defer func() { f.stopped = true }()
	var at *yaml.LoadError
	if !errors.As(err, &at) {
		f.add(1, 1, "not YAML: "+err.Error())
		return
	}
	hint := ""
	if strings.Contains(at.Message, "unknown anchor") || strings.Contains(at.Message, "alphabetic or numeric") {
		hint = `; if it is a pattern that begins with *, put it in quotes`
	}
	f.add(at.Mark.Line, at.Mark.Column, "not YAML: "+at.Message+hint)
}

// add notes a problem. Lines and columns count from 1.
func (f *File) add(line, column int, text string) {
	if f.stopped {
		return
	}
	p := Problem{File: f.name, Line: max(line, 1), Column: max(column, 1), Text: text}
	if p.Line <= len(f.lines) {
		p.Source = firstRunes(strings.TrimRight(f.lines[p.Line-1], "\r"), maxSource)
	}
	switch {
	case f.seen[p]:
	case len(f.problems) == maxProblems:
		f.untold++
	default:
		f.seen[p] = true
		f.problems = append(f.problems, p)
	}
}

// stop notes a problem which makes it pointless to read on: from now on every
// node is null, and nothing more is a problem.
func (f *File) stop(n Node, format string, args ...any) {
	n.Problem(format, args...)
	f.stopped = true
}

// firstRunes returns the first n characters of s, or s if it has fewer.
func firstRunes(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}

// Err returns the Problems noted so far, in the order of the file, or nil.
func (f *File) Err() error {
	if len(f.problems) == 0 {
		return nil
	}
	problems := slices.Clone(f.problems)
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if f.untold > 0 {
		problems = append(problems, Problem{File: f.name, Text: fmt.Sprintf("and %d more problems", f.untold)})
	}
	return problems
}

// A Problem is one thing that is wrong with a file.
type Problem struct {
	File         string
	Line, Column int    // from 1; 0 if it concerns no line
	Text         string // what is wrong, and what would be right
	Source       string // the beginning of the line
}

// String returns the problem as file:line:column, what is wrong, and the line
// with the place marked.
func (p Problem) String() string {
	if p.Line == 0 {
		return p.File + ": " + p.Text
	}
	at := fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Text)
	source := []rune(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' ' // one column each, as the mark below counts them
		}
		return r
	}, p.Source))
	if p.Column > maxSource || len(source) == 0 {
		return at
	}
	return fmt.Sprintf("%s\n%6d | %s\n       | %*s", at, p.Line, string(source), p.Column, "^")
}

// Problems are an error: all that is wrong with some files.
type Problems []Problem

// Error returns all problems, each as Problem.String does.
func (p Problems) Error() string {
	all := make([]string, len(p))
	for i := range p {
		all[i] = p[i].String()
	}
	return strings.Join(all, "\n")
}

// A Node is a value in a file. The zero Node belongs to no file: it is null, and
// a Problem of it is dropped, since there is no place to note it. No method
// panics, whatever the file holds.
type Node struct {
	file  *File
	yaml  *yaml.Node // nil: there is nothing
	depth int        // of nesting, aliases included
}

// child returns the node y, which n holds.
func (n Node) child(y *yaml.Node) Node { return Node{n.file, y, n.depth + 1} }

// Problem notes what is wrong with n.
func (n Node) Problem(format string, args ...any) {
	if !n.Given() {
		return
	}
	line, column := 1, 1
	if n.yaml != nil {
		line, column = n.yaml.Line, n.yaml.Column
	}
	n.file.add(line, column, fmt.Sprintf(format, args...))
}

// Given reports whether n is not the zero Node: null, too, is given.
func (n Node) Given() bool { return n.file != nil }

// Line returns the line n is on.
func (n Node) Line() int {
	if n.yaml == nil {
		return 1
	}
	return n.yaml.Line
}

// resolved returns what n stands for, past aliases. It returns nil for null and
// for nothing.
func (n Node) resolved() *yaml.Node {
	if !n.Given() || n.file.stopped {
		return nil
	}
	if n.depth > maxDepth {
		n.file.stop(n, "nested more than %d deep; nest less, and let no alias hold itself", maxDepth)
		return nil
	}
	if n.file.visits--; n.file.visits < 0 {
		n.file.stop(n, "aliases make the file too large; use fewer of them")
		return nil
	}
	y := n.yaml
	if y != nil && y.Kind == yaml.AliasNode {
		y = y.Alias
	}
	if y == nil || y.Kind == yaml.ScalarNode && y.ShortTag() == "!!null" {
		return nil
	}
	return y
}

// IsNull reports whether n is null, or nothing.
func (n Node) IsNull() bool { return n.resolved() == nil }

// what describes y in a message.
func what(y *yaml.Node) string {
	switch y.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	default:
		return quote.Cut(y.Value)
	}
}

// Mapping calls, for each key of the mapping n, the function of that name with
// its value. A key that has none is a problem. Null is an empty mapping.
func (n Node) Mapping(keys map[string]func(Node)) {
	n.Pairs(func(key, value Node) {
		name := key.Text()
		if read := keys[name]; read != nil {
			read(value)
			return
		}
		key.Problem("unknown key %s; %s", quote.Cut(name), spelling.Hint(name, slices.Sorted(maps.Keys(keys))))
	})
}

// Has reports whether n is a mapping that has a key.
func (n Node) Has(key string) bool {
	y := n.resolved()
	if y == nil || y.Kind != yaml.MappingNode {
		return false
	}
	for i := 0; i+1 < len(y.Content); i += 2 {
		if k := n.child(y.Content[i]).resolved(); k != nil && k.Kind == yaml.ScalarNode && k.Value == key {
			return true
		}
	}
	return false
}

// String returns n as YAML, or "" for null.
func (n Node) String() string {
	y := n.resolved()
	if y == nil {
		return ""
	}
	text, err := yaml.Marshal(y)
	if err != nil { // it was read from YAML
		return err.Error()
	}
	return string(text)
}

// Pairs calls f for each key and value of the mapping n, in the file's order,
// with those it merges in (<<) last. A key that is there twice is a problem.
// Null is an empty mapping.
func (n Node) Pairs(f func(key, value Node)) { n.pairs(f, map[string]int{}) }

// pairs is Pairs but for the keys that have been seen, with their lines.
func (n Node) pairs(f func(key, value Node), seen map[string]int) {
	y := n.resolved()
	if y == nil {
		return
	}
	if y.Kind != yaml.MappingNode {
		n.Problem("%s, where a mapping is wanted, as in \"key: value\"", what(y))
		return
	}
	var merges []Node
	own := map[string]bool{}
	for i := 0; i+1 < len(y.Content); i += 2 {
		key, value := n.child(y.Content[i]), n.child(y.Content[i+1])
		if key.yaml.ShortTag() == "!!merge" {
			merges = append(merges, value)
			continue
		}
		name := key.Text()
		if first, ok := seen[name]; ok {
			if own[name] { // and is not of a mapping that merges this one in
				key.Problem("key %s is already on line %d", quote.Cut(name), first)
			}
			continue
		}
		seen[name], own[name] = key.yaml.Line, true
		f(key, value)
	}
	for _, m := range merges {
		if y := m.resolved(); y != nil && y.Kind == yaml.SequenceNode {
			m.Items(func(item Node) { item.pairs(f, seen) })
			continue
		}
		m.pairs(f, seen)
	}
}

// Items calls f for each item of the list n. Null is an empty list.
func (n Node) Items(f func(item Node)) {
	y := n.resolved()
	if y == nil {
		return
	}
	if y.Kind != yaml.SequenceNode {
		n.Problem("%s, where a list is wanted, as in \"- item\" or [item, item]", what(y))
		return
	}
	for _, item := range y.Content {
		f(n.child(item))
	}
}

// Text returns the text of the scalar n, as it is written, whatever its type.
// Null is "".
func (n Node) Text() string {
	y := n.resolved()
	if y == nil {
		return ""
	}
	if y.Kind != yaml.ScalarNode {
		n.Problem("%s, where a single value is wanted", what(y))
		return ""
	}
	return y.Value
}

// Texts returns the texts of the list n, or of the one value n.
func (n Node) Texts() []string {
	y := n.resolved()
	if y != nil && y.Kind == yaml.ScalarNode {
		return []string{y.Value}
	}
	var all []string
	n.Items(func(item Node) { all = append(all, item.Text()) })
	return all
}

// Bool returns the boolean n.
func (n Node) Bool() bool {
	switch text := n.Text(); strings.ToLower(text) {
	case "true", "yes", "on": // as YAML 1.1, which much of this field's configuration is written in
		return true
	case "false", "no", "off":
		return false
	default:
		n.Problem("%s is neither true nor false", quote.Cut(text))
		return false
	}
}

// Uint returns the whole number n, which may be most at the most.
func (n Node) Uint(most uint64) uint64 {
	text := n.Text()
	number, err := strconv.ParseUint(strings.ReplaceAll(text, "_", ""), 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		n.Problem("%s is not a whole number of 0 to %d", quote.Cut(text), most)
		return 0
	}
	if number > most {
		n.Problem("%s is over %d", quote.Cut(text), most)
		return 0
	}
	return number
}

// Map returns the mapping n, whatever it holds: text, float64, bool, nil, []any
// and map[string]any.
func (n Node) Map() map[string]any {
	m := map[string]any{}
	n.Pairs(func(key, value Node) { m[key.Text()] = value.any() })
	return m
}

func (n Node) any() any {
	y := n.resolved()
	switch {
	case y == nil:
		return nil
	case y.Kind == yaml.MappingNode:
		return n.Map()
	case y.Kind == yaml.SequenceNode:
		list := []any{}
		n.Items(func(item Node) { list = append(list, item.any()) })
		return list
	case y.ShortTag() == "!!bool":
		return n.Bool()
	case y.ShortTag() == "!!int" || y.ShortTag() == "!!float":
		if f, err := strconv.ParseFloat(y.Value, 64); err == nil {
			return f
		}
	}
	return y.Value
}
