package yamlfile

import (
	"encoding/json"
	"strings"

	"go.yaml.in/yaml/v4"
)

// String returns n as YAML without its comments, or "" for null. It is written here
// because the library needs 200 times the memory of a file to write it.
func (n Node) String() string {
	y := n.resolved()
	if y == nil {
		return ""
	}
	var p printer
	if isBlock(y) {
		p.properties(y) // a part of it may refer to the whole
		p.block(y, 0)
	} else {
		p.flow(y)
	}
	return strings.TrimPrefix(p.String(), "\n") + "\n"
}

// A printer writes nodes in the styles that they were read in, so that what it writes
// is about as long as what was read.
type printer struct{ strings.Builder }

// isBlock reports whether y is written on lines of its own.
func isBlock(y *yaml.Node) bool {
	return (y.Kind == yaml.MappingNode || y.Kind == yaml.SequenceNode) && y.Style&yaml.FlowStyle == 0 && len(y.Content) > 0
}

// block writes a mapping or a list on lines of its own, each after a line break.
func (p *printer) block(y *yaml.Node, indent int) {
	width := 2 // of a key and its value
	if y.Kind == yaml.SequenceNode {
		width = 1
	}
	for i := 0; i+width <= len(y.Content); i += width {
		p.WriteByte('\n')
		for range indent {
			p.WriteByte(' ')
		}
		if width == 2 {
			p.flow(y.Content[i])
			p.WriteByte(':')
		} else {
			p.WriteByte('-')
		}
		value := y.Content[i+width-1]
		p.WriteByte(' ')
		if !isBlock(value) {
			p.flow(value)
			continue
		}
		p.properties(value)
		p.block(value, indent+2)
	}
}

// flow writes y within a line.
func (p *printer) flow(y *yaml.Node) {
	p.properties(y)
	switch y.Kind {
	case yaml.AliasNode:
		p.WriteByte('*')
		p.WriteString(y.Value)
		p.WriteByte(' ') // so that a colon is not part of its name
	case yaml.MappingNode:
		p.WriteByte('{')
		for i := 0; i+1 < len(y.Content); i += 2 {
			if i > 0 {
				p.WriteString(", ")
			}
			p.flow(y.Content[i])
			p.WriteString(": ")
			p.flow(y.Content[i+1])
		}
		p.WriteByte('}')
	case yaml.SequenceNode:
		p.WriteByte('[')
		for i, item := range y.Content {
			if i > 0 {
				p.WriteString(", ")
			}
			p.flow(item)
		}
		p.WriteByte(']')
	default:
		p.scalar(y)
	}
}

// properties writes the anchor and the tag of y, if it has them.
func (p *printer) properties(y *yaml.Node) {
	if y.Kind == yaml.AliasNode {
		return
	}
	if y.Anchor != "" {
		p.WriteString("&" + y.Anchor + " ")
	}
	if y.Style&yaml.TaggedStyle != 0 && y.Tag != "" {
		p.WriteString(y.Tag + " ")
	}
}

// scalar writes a plain scalar as it was read, and any other in double quotes.
func (p *printer) scalar(y *yaml.Node) {
	const quoted = yaml.DoubleQuotedStyle | yaml.SingleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle
	switch {
	case y.Style&quoted == 0 && y.Value == "":
		p.WriteString("null")
	case y.Style&quoted == 0 && !strings.Contains(y.Value, "\n"):
		p.WriteString(y.Value)
	default:
		e := json.NewEncoder(noNewline{p}) // JSON is YAML
		e.SetEscapeHTML(false)
		_ = e.Encode(y.Value) // a string can be encoded
	}
}

// noNewline leaves out the newline that a json.Encoder appends.
type noNewline struct{ p *printer }

func (w noNewline) Write(b []byte) (int, error) {
	w.p.WriteString(strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}
