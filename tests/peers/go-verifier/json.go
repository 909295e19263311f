package main

import (
	"encoding/json"
	"errors"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"
)

// object is a parsed JSON object. Values are object, []any, string, bool, int64 or nil.
type object = map[string]any

const maxInteger = 1<<53 - 1

var errJSON = errors.New("not canonical JSON")

// parseCanonical parses canonical JSON (SPEC §1): it parses, encodes again and compares.
func parseCanonical(data []byte) (value any, err error) {
	if !utf8.Valid(data) {
		return nil, errJSON
	}
	defer func() {
		if recover() != nil {
			value, err = nil, errJSON
		}
	}()
	p := &parser{text: string(data)}
	value = p.value(0)
	if p.at != len(p.text) || encodeCanonical(value) != p.text {
		return nil, errJSON
	}
	return value, nil
}

// parser panics where the text is not JSON of our kind.
type parser struct {
	text string
	at   int
}

func (p *parser) next() byte {
	p.at++
	return p.text[p.at-1]
}

func (p *parser) expect(word string) {
	if !strings.HasPrefix(p.text[p.at:], word) {
		panic(errJSON)
	}
	p.at += len(word)
}

func (p *parser) value(depth int) any {
	if depth > 100 {
		panic(errJSON)
	}
	switch c := p.text[p.at]; c {
	case '{':
		found := object{}
		p.list('}', func() {
			key := p.str()
			p.expect(":")
			found[key] = p.value(depth + 1)
		})
		return found
	case '[':
		found := []any{}
		p.list(']', func() { found = append(found, p.value(depth+1)) })
		return found
	case '"':
		return p.str()
	case 't':
		p.expect("true")
		return true
	case 'f':
		p.expect("false")
		return false
	case 'n':
		p.expect("null")
		return nil
	}
	start := p.at
	for p.at < len(p.text) && strings.IndexByte("-0123456789", p.text[p.at]) >= 0 {
		p.at++
	}
	number, err := strconv.ParseInt(p.text[start:p.at], 10, 64)
	if err != nil || number > maxInteger || number < -maxInteger {
		panic(errJSON)
	}
	return number
}

func (p *parser) list(end byte, item func()) {
	p.at++
	if p.text[p.at] == end {
		p.at++
		return
	}
	for {
		item()
		switch p.next() {
		case end:
			return
		case ',':
		default:
			panic(errJSON)
		}
	}
}

func (p *parser) str() string {
	p.expect(`"`)
	var found strings.Builder
	for {
		c := p.next()
		if c == '"' {
			return found.String()
		}
		if c != '\\' {
			found.WriteByte(c)
			continue
		}
		c = p.next()
		if at := strings.IndexByte(`"\btnfr`, c); at >= 0 {
			found.WriteByte("\"\\\b\t\n\f\r"[at])
			continue
		}
		code, err := strconv.ParseUint(p.text[p.at:p.at+4], 16, 8)
		if c != 'u' || err != nil || code >= 0x20 {
			panic(errJSON)
		}
		p.at += 4
		found.WriteByte(byte(code))
	}
}

// encodeCanonical encodes a parsed value by RFC 8785; keys that are not ASCII have no encoding.
func encodeCanonical(value any) string {
	var out strings.Builder
	encode(&out, value)
	return out.String()
}

func encode(out *strings.Builder, value any) {
	switch v := value.(type) {
	case nil:
		out.WriteString("null")
	case bool:
		out.WriteString(strconv.FormatBool(v))
	case int64:
		out.WriteString(strconv.FormatInt(v, 10))
	case string:
		encodeString(out, v)
	case []any:
		out.WriteByte('[')
		for at, item := range v {
			if at > 0 {
				out.WriteByte(',')
			}
			encode(out, item)
		}
		out.WriteByte(']')
	case object:
		out.WriteByte('{')
		for at, key := range sortedKeys(v) {
			if at > 0 {
				out.WriteByte(',')
			}
			for _, c := range []byte(key) {
				if c >= 0x80 {
					panic(errJSON)
				}
			}
			encodeString(out, key)
			out.WriteByte(':')
			encode(out, v[key])
		}
		out.WriteByte('}')
	}
}

func sortedKeys(v object) []string {
	keys := make([]string, 0, len(v))
	for key := range v {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

func encodeString(out *strings.Builder, text string) {
	out.WriteByte('"')
	for _, c := range []byte(text) {
		if at := strings.IndexByte("\"\\\b\t\n\f\r", c); at >= 0 {
			out.WriteByte('\\')
			out.WriteByte(`"\btnfr`[at])
		} else if c < 0x20 {
			out.WriteString(`\u00`)
			out.WriteByte("0123456789abcdef"[c>>4])
			out.WriteByte("0123456789abcdef"[c&15])
		} else {
			out.WriteByte(c)
		}
	}
	out.WriteByte('"')
}

// without returns a copy of an object that lacks one key.
func without(v object, gone string) object {
	found := object{}
	for key, item := range v {
		if key != gone {
			found[key] = item
		}
	}
	return found
}

// parseLoose parses any JSON, of the opening that is nobody's format.
func parseLoose(data []byte) (value any, err error) {
	err = json.Unmarshal(data, &value)
	return value, err
}
