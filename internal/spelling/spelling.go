// Package spelling helps a person who misspelt one of a few known words.
package spelling

import (
	"fmt"
	"strings"

	"github.com/ratelimitd/ratelimitd/internal/quote"
)

// maxListed is how many words a hint lists. Nobody reads a longer list.
const maxListed = 8

// Hint returns what a message says after it has quoted an unknown word: the
// known word that it is likely to mean, as in `did you mean "limits"?`, or else
// some of the known words. It is empty if there are none.
func Hint(word string, known []string) string {
	if meant, ok := Closest(word, known); ok {
		return fmt.Sprintf("did you mean %s?", quote.Cut(meant))
	}
	switch more := len(known) - maxListed; {
	case len(known) == 0:
		return ""
	case more > 0:
		return fmt.Sprintf("known here: %s and %d more", strings.Join(known[:maxListed], ", "), more)
	default:
		return "known here: " + strings.Join(known, ", ")
	}
}

// Closest returns the known word that word is likely to mean, and whether there
// is one: the one with the fewest mistakes, of at most one in three letters. A
// mistake is a letter that is wrong, missing, or too many, or two neighbours
// that changed places. The case of letters does not matter.
func Closest(word string, known []string) (string, bool) {
	best, fewest := "", (len(word)+1)/3+1
	for _, k := range known {
		if n := len(k) - len(word); n >= fewest || -n >= fewest {
			continue // it takes a mistake to change the length by one
		}
		if n := mistakes(strings.ToLower(word), strings.ToLower(k)); n < fewest {
			best, fewest = k, n
		}
	}
	return best, best != ""
}

// mistakes returns the optimal string alignment distance of a and b, in bytes.
// Row i of the table has the distances of a[:i] from each b[:j], and only the
// last two rows matter.
func mistakes(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			wrong := 1
			if a[i-1] == b[j-1] {
				wrong = 0
			}
			row[j] = min(last[j-1]+wrong, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
