package mask

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// DateForm says what kind of column holds the date.
type DateForm int

// The forms of DateTrunc.
const (
	Date        DateForm = iota // type date
	Timestamp                   // type timestamp (without time zone)
	TimestampTZ                 // type timestamptz
)

type dateUnit int

const (
	minute dateUnit = iota
	hour
	day
	week
	month
	quarter
	year
)

// DateTrunc is the strategy date_trunc: the start of the value's year, quarter, month, week (from Monday), day, hour or
// minute, as the server's date_trunc computes it at UTC. Values are read as DateStyle ISO prints them, years beyond 9999
// and BC included; a timestamptz may have any offset and comes out at +00. infinity and -infinity stay. A date is
// never changed by hour and minute. Where the unit starts before the first date that the server can hold
// (4714-11-24 BC), that date comes out.
func DateTrunc(unit string, form DateForm) (Func, error) {
	units := map[string]dateUnit{"minute": minute, "hour": hour, "day": day, "week": week, "month": month, "quarter": quarter, "year": year}
	u, ok := units[unit]
	if !ok {
		return nil, fmt.Errorf("date_trunc has no unit %q: year, quarter, month, week, day, hour or minute", unit)
	}
	if form != Date && form != Timestamp && form != TimestampTZ {
		return nil, fmt.Errorf("date_trunc has no form %d", form)
	}
	return func(dst, value []byte) ([]byte, bool, error) {
		if string(value) == "infinity" || string(value) == "-infinity" {
			return append(dst, value...), false, nil
		}
		t, ok := parseMoment(value, form)
		if !ok {
			return dst, false, errors.New("date_trunc: the value is not a date or timestamp as DateStyle ISO prints it")
		}
		return appendMoment(dst, t.truncate(u), form), false, nil
	}, nil
}

// moment is a time of the proleptic Gregorian calendar at UTC, to the second.
type moment struct {
	days    int64 // since 1970-01-01
	seconds int64 // of the day
}

const (
	secondsPerDay = 86400
	firstDay      = -2440588 // 4714-11-24 BC, Julian day 0: the first that the server's types hold
)

func (t moment) truncate(u dateUnit) moment {
	switch u {
	case minute:
		t.seconds -= t.seconds % 60
		return t
	case hour:
		t.seconds -= t.seconds % 3600
		return t
	}
	t.seconds = 0
	y, m, _ := civil(t.days)
	switch u {
	case week:
		t.days -= mod(t.days+3, 7) // 1970-01-01 was a Thursday
	case month:
		t.days = daysOf(y, m, 1)
	case quarter:
		t.days = daysOf(y, m-(m-1)%3, 1)
	case year:
		t.days = daysOf(y, 1, 1)
	}
	t.days = max(t.days, firstDay)
	return t
}

// parseMoment reads YYYY-MM-DD[ HH:MM:SS[.ffffff][+HH[:MM[:SS]]]][ BC].
func parseMoment(s []byte, form DateForm) (t moment, ok bool) {
	s, bc := bytes.CutSuffix(s, []byte(" BC"))
	y, s, ok1 := digits(s, 4, 7)
	m, s, ok2 := digitsAfter(s, '-', 2)
	d, s, ok3 := digitsAfter(s, '-', 2)
	if !ok1 || !ok2 || !ok3 || y == 0 || m < 1 || m > 12 {
		return t, false
	}
	if bc {
		y = 1 - y
	}
	if d < 1 || d > monthLength(y, m) {
		return t, false
	}
	t.days = daysOf(y, m, d)
	if form == Date {
		return t, len(s) == 0
	}

	h, s, ok1 := digitsAfter(s, ' ', 2)
	min, s, ok2 := digitsAfter(s, ':', 2)
	sec, s, ok3 := digitsAfter(s, ':', 2)
	if !ok1 || !ok2 || !ok3 || h > 23 || min > 59 || sec > 59 {
		return t, false
	}
	t.seconds = h*3600 + min*60 + sec
	if len(s) > 0 && s[0] == '.' {
		if _, s, ok = digits(s[1:], 1, 6); !ok {
			return t, false
		}
	}
	if form == Timestamp {
		return t, len(s) == 0
	}

	// What is cut off below a minute does not depend on fractions of a second, so whole seconds are enough for the
	// offset too.
	if len(s) == 0 || s[0] != '+' && s[0] != '-' {
		return t, false
	}
	east := s[0] == '+'
	h, s, ok = digits(s[1:], 2, 2)
	offset := h * 3600
	for _, unit := range [2]int64{60, 1} {
		if !ok || len(s) == 0 {
			break
		}
		var n int64
		if n, s, ok = digitsAfter(s, ':', 2); n > 59 {
			ok = false
		}
		offset += n * unit
	}
	if !ok || len(s) > 0 {
		return t, false
	}
	if east {
		offset = -offset
	}
	t.seconds += offset
	t.days += (t.seconds - mod(t.seconds, secondsPerDay)) / secondsPerDay
	t.seconds = mod(t.seconds, secondsPerDay)
	return t, true
}

// digits reads from least to most decimal digits, as many as there are.
func digits(s []byte, least, most int) (n int64, rest []byte, ok bool) {
	i := 0
	for i < len(s) && s[i] >= '0' && s[i] <= '9' {
		if i == most {
			return 0, s, false
		}
		n = n*10 + int64(s[i]-'0')
		i++
	}
	return n, s[i:], i >= least
}

func digitsAfter(s []byte, mark byte, count int) (n int64, rest []byte, ok bool) {
	if len(s) == 0 || s[0] != mark {
		return 0, s, false
	}
	return digits(s[1:], count, count)
}

func appendMoment(dst []byte, t moment, form DateForm) []byte {
	y, m, d := civil(t.days)
	bc := y < 1
	if bc {
		y = 1 - y
	}
	dst = appendPadded(dst, y, 4)
	dst = appendPadded(append(dst, '-'), m, 2)
	dst = appendPadded(append(dst, '-'), d, 2)
	if form != Date {
		dst = appendPadded(append(dst, ' '), t.seconds/3600, 2)
		dst = appendPadded(append(dst, ':'), t.seconds/60%60, 2)
		dst = appendPadded(append(dst, ':'), t.seconds%60, 2)
	}
	if form == TimestampTZ {
		dst = append(dst, "+00"...)
	}
	if bc {
		dst = append(dst, " BC"...)
	}
	return dst
}

func appendPadded(dst []byte, n int64, width int) []byte {
	for limit := int64(10); width > 1; width-- {
		if n < limit {
			for ; width > 1; width-- {
				dst = append(dst, '0')
			}
			break
		}
		limit *= 10
	}
	return strconv.AppendInt(dst, n, 10)
}

// The calendar's arithmetic: years begin in March, so that the leap day is the last of its year, and 400 years are
// always 146097 days. Year 0 is 1 BC.

const daysPer400Years = 146097

func daysOf(y, m, d int64) int64 {
	if m <= 2 {
		y--
	}
	yearOfEra := mod(y, 400)
	era := (y - yearOfEra) / 400
	dayOfYear := (153*mod(m-3, 12)+2)/5 + d - 1
	dayOfEra := yearOfEra*365 + yearOfEra/4 - yearOfEra/100 + dayOfYear
	return era*daysPer400Years + dayOfEra - 719468
}

func civil(days int64) (y, m, d int64) {
	days += 719468 // since 0000-03-01
	dayOfEra := mod(days, daysPer400Years)
	era := (days - dayOfEra) / daysPer400Years
	yearOfEra := (dayOfEra - dayOfEra/1460 + dayOfEra/36524 - dayOfEra/146096) / 365
	dayOfYear := dayOfEra - (365*yearOfEra + yearOfEra/4 - yearOfEra/100)
	monthFromMarch := (5*dayOfYear + 2) / 153
	d = dayOfYear - (153*monthFromMarch+2)/5 + 1
	m = mod(monthFromMarch+2, 12) + 1
	y = era*400 + yearOfEra
	if m <= 2 {
		y++
	}
	return y, m, d
}

func monthLength(y, m int64) int64 {
	switch m {
	case 2:
		if mod(y, 4) == 0 && (mod(y, 100) != 0 || mod(y, 400) == 0) {
			return 29
		}
		return 28
	case 4, 6, 9, 11:
		return 30
	}
	return 31
}

// mod is the remainder that is never negative.
func mod(a, b int64) int64 {
	r := a % b
	if r < 0 {
		r += b
	}
	return r
}
