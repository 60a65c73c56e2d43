// Package yamlfile reads configuration from YAML strictly. It reports all problems
// of a file at once, each with its place and its line.
//
// A reader walks the file from its root with Mapping, Pairs and Items, and reads
// scalars with Text, Bool and Uint. What does not fit is noted as a problem and
// reads as the zero value, so that the walk goes on and finds the next problem. The
// values mean nothing unless File.Err returns nil in the end.
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
	// maxProblems is how many problems of one file are reported. Nobody reads more,
	// and a file that is nothing but problems must not fill memory and the log.
	maxProblems = 100
	// maxMarks is how many characters a file may have that begin or end a value: the
	// library takes about 200 bytes for each value, however short.
	maxMarks = 2_000_000
	// maxVisits is how many values a file may mean, with aliases.
	maxVisits = 20_000_000
	// maxSource is how many characters of a line are shown.
	maxSource = 160
)

// A File is a file while it is read. It is not safe for concurrent use.
type File struct {
	name     string
	lines    []string
	problems Problems
	seen     map[Problem]bool // the problems, so that each is reported once, however often aliases repeat it
	untold   int              // how many problems there are beyond maxProblems
	visits   int              // how many more nodes may be looked at
	stopped  bool             // whether the rest of the file reads as null: see stop
}

// Parse parses data, which is one document, and returns its root. If data is not
// YAML, it notes that as a problem, and the root is null.
func Parse(name string, data []byte) (*File, Node) {
	f := &File{
		name: name,
		seen: map[Problem]bool{},
		// With aliases of aliases, a small file can mean a huge one. A file
		// without aliases never needs this many visits.
		visits: min(20*len(data)+10_000, maxVisits),
	}
	marks := 0
	for _, mark := range []string{"\n", ",", ":", "- ", "[", "{"} {
		marks += bytes.Count(data, []byte(mark))
	}
	if marks > maxMarks {
		f.add(1, 1, fmt.Sprintf("more than %d values; write fewer, or split the file", maxMarks))
		f.stopped = true
		return f, Node{file: f}
	}
	f.lines = strings.Split(string(data), "\n")
	if i := invalidUTF8(data); i >= 0 {
		line := bytes.Count(data[:i], []byte("\n"))
		f.add(line+1, i-bytes.LastIndexByte(data[:i], '\n'), fmt.Sprintf("byte 0x%02x is not valid UTF-8", data[i]))
		f.stopped = true
		return f, Node{file: f}
	}
	loader, err := yaml.NewLoader(bytes.NewReader(data), yaml.WithUniqueKeys(false)) // Pairs reports all keys that are there twice
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
		Node{file: f, yaml: &another}.Problem("a second document begins here; write one document per file")
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

// unreadable notes why the file is not YAML, and ends the reading: there is nothing
// in which to find more problems.
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

// stop notes a problem which makes it pointless to read on. After it, every node is
// null and no more problems are noted.
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

// A Problem is one mistake in a file.
type Problem struct {
	File         string
	Line, Column int    // from 1; 0 if the problem has no place
	Text         string // what is wrong, and what would be right
	Source       string // the beginning of the line
}

// String returns the problem as file:line:column and Text, followed by the line and
// a mark under the place.
func (p Problem) String() string {
	if p.Line == 0 {
		return p.File + ": " + p.Text
	}
	at := fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Text)
	source := []rune(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' ' // one column each: the mark below counts on it
		}
		return r
	}, p.Source))
	if p.Column > maxSource || len(source) == 0 {
		return at
	}
	return fmt.Sprintf("%s\n%6d | %s\n       | %*s", at, p.Line, string(source), p.Column, "^")
}

// Problems are all mistakes in some files, as an error.
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
// Problem does nothing, because there is no place to note it. No method panics,
// whatever is in the file.
type Node struct {
	file  *File
	yaml  *yaml.Node // nil if the file has no value
	depth int        // of nesting, aliases included
}

// child returns the node y, which n holds.
func (n Node) child(y *yaml.Node) Node { return Node{n.file, y, n.depth + 1} }

// Problem notes that something is wrong with n.
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

// Given reports whether n is in a file. A null that is written there is given, too.
func (n Node) Given() bool { return n.file != nil }

// Line returns the line n is on.
func (n Node) Line() int {
	if n.yaml == nil {
		return 1
	}
	return n.yaml.Line
}

// resolved returns the value of n, or of what n is an alias for. It returns nil if
// that is null or missing.
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

// IsNull reports whether n is null or missing.
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

// Mapping calls, for each key of the mapping n, the function in keys with that
// name, with the key's value. A key without a function is a problem. Null reads as
// an empty mapping.
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

// Has reports whether n is a mapping with that key.
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

// Pairs calls f for each key and value of the mapping n, in the order of the file.
// Keys that n merges in (<<) come last. A key that is there twice is a problem.
// Null reads as an empty mapping.
func (n Node) Pairs(f func(key, value Node)) { n.pairs(f, map[string]int{}) }

// pairs is Pairs without the keys in seen, which has their lines. It adds the keys
// of n.
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
			if own[name] { // otherwise a mapping that merges this one in has the key
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

// Items calls f for each item of the list n. Null reads as an empty list.
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

// Text returns the text of the scalar n as it is written, whatever its type. Null
// reads as "".
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

// Texts returns the texts of the list n. A single value reads as a list of one.
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
	case "true", "yes", "on": // as in YAML 1.1: much existing configuration is written in it
		return true
	case "false", "no", "off":
		return false
	default:
		n.Problem("%s is neither true nor false", quote.Cut(text))
		return false
	}
}

// Uint returns the whole number n, which may be in another base, as in YAML 1.1: 0x10,
// and 010, which is 8. A number over most is a problem.
func (n Node) Uint(most uint64) uint64 {
	text := n.Text()
	number, err := strconv.ParseUint(strings.ReplaceAll(text, "_", ""), 0, 64)
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

// Map returns the mapping n with all that is in it, as values of the types string,
// float64, bool, nil, []any and map[string]any.
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
