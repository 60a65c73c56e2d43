package codec

import "strings"

// A scanner reads a JSON text from its beginning on. All its methods report whether the
// text goes on as they expect. Once one has not, the rest is not to be read.
type scanner struct {
	text string
	at   int
}

// take skips white space, and reads c.
func (s *scanner) take(c byte) bool {
	s.space()
	if s.at == len(s.text) || s.text[s.at] != c {
		return false
	}
	s.at++
	return true
}

func (s *scanner) space() {
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case ' ', '\n', '\r', '\t':
			s.at++
		default:
			return
		}
	}
}

// end reads the end of the text.
func (s *scanner) end() bool {
	s.space()
	return s.at == len(s.text)
}

// object reads an object, and has field read the value of each name.
func (s *scanner) object(field func(name string) bool) bool {
	if !s.take('{') {
		return false
	}
	if s.take('}') {
		return true
	}
	for {
		var name string
		if !s.string(&name) || !s.take(':') || !field(name) {
			return false
		}
		if s.take('}') {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}

// list reads a list, and has item read each of its items.
func (s *scanner) list(item func() bool) bool {
	if !s.take('[') {
		return false
	}
	if s.take(']') {
		return true
	}
	for {
		if !item() {
			return false
		}
		if s.take(']') {
			return true
		}
		if !s.take(',') {
			return false
		}
	}
}

// string reads a string without an escape. What is read is a part of the text.
func (s *scanner) string(to *string) bool {
	if !s.take('"') {
		return false
	}
	length := strings.IndexByte(s.text[s.at:], '"')
	if length < 0 {
		return false
	}
	text := s.text[s.at : s.at+length]
	for i := range len(text) {
		if c := text[i]; c < ' ' || c == '\\' {
			return false
		}
	}
	*to = text
	s.at += length + len(`"`)
	return true
}

// number reads a number, or a string that is one.
func (s *scanner) number(to *uint64) bool {
	quoted := s.take('"') // or else it has skipped white space
	start, n := s.at, uint64(0)
	for ; s.at < len(s.text) && '0' <= s.text[s.at] && s.text[s.at] <= '9'; s.at++ {
		n = 10*n + uint64(s.text[s.at]-'0')
	}
	*to = n
	if digits := s.at - start; digits == 0 || digits > maxDigits || digits > 1 && s.text[start] == '0' {
		return false
	}
	if !quoted {
		return true // a fraction or an exponent is not what follows a value
	}
	s.at++
	return s.at <= len(s.text) && s.text[s.at-1] == '"'
}

// maxDigits is how long a number may be so that it fits into 64 bits.
const maxDigits = 19

func (s *scanner) bool(to *bool) bool {
	s.space()
	rest := s.text[s.at:]
	if strings.HasPrefix(rest, "true") {
		*to = true
		s.at += len("true")
		return true
	}
	*to = false
	s.at += len("false")
	return strings.HasPrefix(rest, "false")
}
