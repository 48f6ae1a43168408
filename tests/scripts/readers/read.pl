# How Perl programs read a line: see tests/src/readers.rs for what comes in and what goes out.

use strict;
use warnings;
use B ();
use JSON::PP ();
no warnings qw(recursion surrogate nonchar non_unicode);

sub text {
    my @units = map {
        $_ > 0xffff ? (0xd800 + ($_ - 0x10000 >> 10), 0xdc00 + ($_ - 0x10000 & 0x3ff)) : $_
    } unpack 'W*', $_[0];
    return 's' . unpack 'H*', pack 'n*', @units;
}

sub number {
    my $number = 0 + shift;
    $number = 0 if $number == 0;    # zero has no sign
    return 'd' . unpack 'H*', pack 'd>', $number;
}

sub canonical {
    my $value = shift;
    return 'N' unless defined $value;
    my $kind = ref $value;
    return $value ? 'T' : 'F' if $kind eq 'JSON::PP::Boolean';
    return '[' . join(',', map { canonical($_) } @$value) . ']' if $kind eq 'ARRAY';
    if ($kind eq 'HASH') {
        return '{' . join(',', sort map { text($_) . ':' . canonical($value->{$_}) } keys %$value) . '}';
    }
    # A whole number that is too long for the machine becomes a string, which Perl takes for a number
    # wherever one is wanted. No line has a string like that.
    my $string = B::svref_2object(\$value)->FLAGS & B::SVp_POK;
    return $string && $value !~ /\A-?[0-9]{20,}\z/ ? text($value) : number($value);
}

sub reading {
    my $message = shift;
    my ($method, $params) = @$message{qw(method params)};
    my @fields = (canonical($method), exists $message->{id} ? canonical($message->{id}) : '-');
    if (defined $method && !ref $method && $method eq 'tools/call') {
        push @fields, ref $params eq 'HASH' ? map { canonical($_) } @$params{qw(name arguments)} : ('-', '-');
    }
    return join ' ', @fields;
}

# By itself, and with all that it can be told to put up with.
my @ways = (
    JSON::PP->new->utf8,
    JSON::PP->new->utf8->relaxed->loose->allow_singlequote->allow_barekey,
);

binmode STDIN;
binmode STDOUT;
while (read STDIN, my $head, 4) {
    read STDIN, my $line, unpack 'N', $head;
    my %found;
    for my $way (@ways) {
        my $value = eval { $way->decode($line) };
        next unless ref $value;
        for my $message (ref $value eq 'ARRAY' ? @$value : $value) {
            $found{ reading($message) } = 1 if ref $message eq 'HASH';
        }
    }
    delete $found{'N -'};    # an object that has neither a method nor an id
    print join("\t", sort keys %found), "\n";
}
