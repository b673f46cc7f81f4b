/* A small Lisp whose values all live on a lowheap heap: how a C program embeds one.
 *
 *     lisp [--collect-every N] [--verify] [--reserve BYTES] [--initial BYTES] [--depth N] < PROGRAM
 *
 * Forms: quote, if, define, lambda, let, begin, set!. Functions: see BUILTINS. Integers have 64 bits, and overflow is an
 * error. What a form at the top gives is printed; an error tells its line, and the next form goes on.
 *
 * How it keeps out of the collector's way, and any C program can:
 *
 * 1. What a function is given is rooted by its caller, for as long as the call lasts: it is in a slot of a frame, in a
 *    registered slot, or in an object that is. The callee may use it across allocations.
 * 2. What a function gives in `*result` is not rooted. The caller has it written right into a slot of its own frame, or
 *    uses it before anything else is allocated.
 * 3. What goes into a frame's slot has just come from the heap: a collection must know of it. A reference that is kept
 *    elsewhere, as in a registered slot, is read by `lh_read`.
 * 4. So a function needs a frame (LH_FRAME) exactly for what it still wants after something was allocated, and that
 *    nobody else holds. One that does not allocate needs none.
 *
 * Errors come back as `false`, through every function: a frame must not be left by longjmp.
 */

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lowheap.h>

/* Leave a function when a call has failed: one of the heap's, and one of ours. The message is in `lisp->message`. */
#define HEAP(call) do { if ((call) != LH_OK) return false; } while (0)
#define TRY(call) do { if (!(call)) return false; } while (0)

enum { BUCKETS = 256, MESSAGE_SIZE = 256, READ_DEPTH = 500, PRINT_DEPTH = 500 };

/* The fields of each type, by number. */
enum { PAIR_CAR, PAIR_CDR, LOCATED_LINE };
enum { SYMBOL_NAME, SYMBOL_VALUE, SYMBOL_IS_BOUND, SYMBOL_NEXT };
enum { CLOSURE_PARAMETERS, CLOSURE_BODY, CLOSURE_ENVIRONMENT };
enum { ENVIRONMENT_BINDINGS, ENVIRONMENT_PARENT };
enum { BINDING_NAME, BINDING_VALUE, BINDING_NEXT };
enum { INTEGER_VALUE };

struct lisp {
    lh_heap *heap;
    lh_type string, symbol, table, pair, located, closure, binding, environment, integer;
    lh_ref symbols; /* a registered slot: the table of all symbols, so none ever dies */
    /* Registered slots, too: symbols that the evaluator knows. As objects never move, it may simply compare with them. */
    lh_ref quote, if_, define, lambda, let, begin, set, true_, false_, nothing;
    unsigned line, depth, depth_limit;
    char message[MESSAGE_SIZE];
};

/* A function in C. Its value in Lisp is an externref, whose data it is. `most` -1 is for any number of arguments. */
struct builtin {
    const char *name;
    bool (*call)(struct lisp *lisp, const struct builtin *self, lh_ref arguments, lh_ref *result);
    int least, most;
};

static bool fail(struct lisp *lisp, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Note what went wrong; return false. */
static bool fail(struct lisp *lisp, const char *format, ...) {
    va_list values;
    va_start(values, format);
    vsnprintf(lisp->message, sizeof lisp->message, format, values);
    va_end(values);
    return false;
}

/* The heap tells of each call that fails here, so that nobody has to ask. */
static void note_heap_error(void *argument, lh_status status, const char *message) {
    fail(argument, "%s (%s)", message, lh_status_name(status));
}

/* ------------------------------------------------------ Values ------------------------------------------------------ */

static bool define_types(struct lisp *lisp) {
    lh_heap *heap = lisp->heap;
    const lh_field byte = LH_I8_FIELD;
    HEAP(lh_define_array(heap, &byte, LH_NO_SUPERTYPE, LH_FINAL, &lisp->string));

    const lh_field symbol[] = {LH_REF_FIELD(lisp->string), LH_REF_FIELD(LH_ANY), LH_I8_FIELD, LH_REF_FIELD(LH_SELF)};
    HEAP(lh_define_struct(heap, symbol, 4, LH_NO_SUPERTYPE, LH_FINAL, &lisp->symbol));
    const lh_field bucket = LH_REF_FIELD(lisp->symbol);
    HEAP(lh_define_array(heap, &bucket, LH_NO_SUPERTYPE, LH_FINAL, &lisp->table));

    /* A pair that was read, not computed, knows its line. It is a pair like any other: a subtype. */
    const lh_field located[] = {LH_REF_FIELD(LH_ANY), LH_REF_FIELD(LH_ANY), LH_I32_FIELD};
    HEAP(lh_define_struct(heap, located, 2, LH_NO_SUPERTYPE, 0, &lisp->pair));
    HEAP(lh_define_struct(heap, located, 3, lisp->pair, LH_FINAL, &lisp->located));

    const lh_field binding[] = {LH_REF_FIELD(lisp->symbol), LH_REF_FIELD(LH_ANY), LH_REF_FIELD(LH_SELF)};
    HEAP(lh_define_struct(heap, binding, 3, LH_NO_SUPERTYPE, LH_FINAL, &lisp->binding));
    const lh_field environment[] = {LH_REF_FIELD(lisp->binding), LH_REF_FIELD(LH_SELF)};
    HEAP(lh_define_struct(heap, environment, 2, LH_NO_SUPERTYPE, LH_FINAL, &lisp->environment));
    const lh_field closure[] = {LH_REF_FIELD(LH_ANY), LH_REF_FIELD(LH_ANY), LH_REF_FIELD(lisp->environment)};
    HEAP(lh_define_struct(heap, closure, 3, LH_NO_SUPERTYPE, LH_FINAL, &lisp->closure));

    const lh_field integer = LH_I64_FIELD;
    HEAP(lh_define_struct(heap, &integer, 1, LH_NO_SUPERTYPE, LH_FINAL, &lisp->integer));
    return true;
}

enum kind { NIL, INTEGER, SYMBOL, STRING, PAIR, CLOSURE, BUILTIN };

static enum kind kind_of(const struct lisp *lisp, lh_ref value) {
    lh_type type = LH_EXTERNREF_TYPE;
    if (value == LH_NULL) {
        return NIL;
    }
    if (lh_is_i31(value) || lh_type_of(lisp->heap, value, &type) != LH_OK || type == lisp->integer) {
        return INTEGER;
    }
    return type == lisp->symbol ? SYMBOL
         : type == lisp->string ? STRING
         : type == lisp->closure ? CLOSURE
         : type == lisp->pair || type == lisp->located ? PAIR
         : BUILTIN;
}

/* An integer is an i31, which takes no memory, where it fits in one. */
static bool new_integer(struct lisp *lisp, int64_t value, lh_ref *result) {
    const int64_t half = INT64_C(1) << 30;
    if (value >= -half && value < half) {
        *result = lh_i31((int32_t)value);
        return true;
    }
    HEAP(lh_alloc_struct(lisp->heap, lisp->integer, result));
    HEAP(lh_struct_set_i64(lisp->heap, *result, INTEGER_VALUE, value));
    return true;
}

static bool integer_value(struct lisp *lisp, lh_ref value, int64_t *result) {
    if (kind_of(lisp, value) != INTEGER) {
        return fail(lisp, "an integer is wanted");
    }
    if (lh_is_i31(value)) {
        *result = lh_i31_value(value);
        return true;
    }
    HEAP(lh_struct_get_i64(lisp->heap, value, INTEGER_VALUE, result));
    return true;
}

static bool new_string(struct lisp *lisp, const char *bytes, size_t length, lh_ref *result) {
    void *data;
    if (length > UINT32_MAX) {
        return fail(lisp, "a string of %zu bytes is too long", length);
    }
    HEAP(lh_alloc_array(lisp->heap, lisp->string, (uint32_t)length, result));
    HEAP(lh_array_data(lisp->heap, *result, &data));
    memcpy(data, bytes, length);
    return true;
}

/* A string's bytes, good as long as the string lives: it does not move. */
static bool string_bytes(struct lisp *lisp, lh_ref string, const char **bytes, uint32_t *length) {
    void *data;
    HEAP(lh_array_data(lisp->heap, string, &data));
    HEAP(lh_array_length(lisp->heap, string, length));
    *bytes = data;
    return true;
}

/* What is in a registered slot, for a slot of the caller's frame. */
static bool kept(struct lisp *lisp, const lh_ref *slot, lh_ref *result) {
    HEAP(lh_read(lisp->heap, slot, result));
    return true;
}

/* Between the allocation and the end nothing can collect, so the new pair needs no slot. */
static bool new_pair(struct lisp *lisp, lh_ref car, lh_ref cdr, lh_ref *result) {
    lh_ref pair;
    HEAP(lh_alloc_struct(lisp->heap, lisp->pair, &pair));
    HEAP(lh_struct_set_ref(lisp->heap, pair, PAIR_CAR, car));
    HEAP(lh_struct_set_ref(lisp->heap, pair, PAIR_CDR, cdr));
    *result = pair;
    return true;
}

static bool pair_part(struct lisp *lisp, lh_ref pair, uint32_t part, lh_ref *result) {
    if (kind_of(lisp, pair) != PAIR) {
        return fail(lisp, "a pair is wanted");
    }
    HEAP(lh_struct_get_ref(lisp->heap, pair, part, result));
    return true;
}

/* Put a value behind the last pair of a list that is being built in two slots; `*last` is null at the start. */
static bool append(struct lisp *lisp, lh_ref *first, lh_ref *last, lh_ref value) {
    lh_ref pair;
    TRY(new_pair(lisp, value, LH_NULL, &pair));
    if (*last == LH_NULL) {
        *first = pair;
    } else {
        HEAP(lh_struct_set_ref(lisp->heap, *last, PAIR_CDR, pair));
    }
    *last = pair;
    return true;
}

/* The symbol of a name: the one that there is, or a new one. */
static bool intern(struct lisp *lisp, const char *name, size_t length, lh_ref *result) {
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < length; i++) {
        hash = (hash ^ (unsigned char)name[i]) * 16777619u;
    }
    lh_ref table, symbol;
    HEAP(lh_read(lisp->heap, &lisp->symbols, &table));
    HEAP(lh_array_get_ref(lisp->heap, table, hash % BUCKETS, &symbol));
    while (symbol != LH_NULL) {
        lh_ref known;
        const char *bytes;
        uint32_t size;
        HEAP(lh_struct_get_ref(lisp->heap, symbol, SYMBOL_NAME, &known));
        TRY(string_bytes(lisp, known, &bytes, &size));
        if (size == length && memcmp(bytes, name, size) == 0) {
            *result = symbol;
            return true;
        }
        HEAP(lh_struct_get_ref(lisp->heap, symbol, SYMBOL_NEXT, &symbol));
    }
    LH_FRAME(lisp->heap, string, 1); /* it must outlive the next allocation */
    TRY(new_string(lisp, name, length, &string[0]));
    HEAP(lh_alloc_struct(lisp->heap, lisp->symbol, &symbol));
    HEAP(lh_struct_set_ref(lisp->heap, symbol, SYMBOL_NAME, string[0]));
    HEAP(lh_read(lisp->heap, &lisp->symbols, &table));
    lh_ref next;
    HEAP(lh_array_get_ref(lisp->heap, table, hash % BUCKETS, &next));
    HEAP(lh_struct_set_ref(lisp->heap, symbol, SYMBOL_NEXT, next));
    HEAP(lh_array_set_ref(lisp->heap, table, hash % BUCKETS, symbol));
    *result = symbol;
    return true;
}

/* ------------------------------------------------------ Reading ----------------------------------------------------- */

struct reader {
    FILE *file;
    unsigned line, depth;
    char *text; /* the token that is being read */
    size_t length, room;
};

static int next_character(struct reader *reader) {
    int character = getc(reader->file);
    reader->line += character == '\n';
    return character;
}

static void put_back(struct reader *reader, int character) {
    reader->line -= character == '\n';
    ungetc(character, reader->file);
}

/* The next character that is neither space nor in a comment, or EOF. */
static int next_significant(struct reader *reader) {
    for (;;) {
        int character = next_character(reader);
        if (character == ';') {
            while (character != '\n' && character != EOF) {
                character = next_character(reader);
            }
        }
        if (character == EOF || !isspace(character)) {
            return character;
        }
    }
}

static bool add_character(struct lisp *lisp, struct reader *reader, int character) {
    if (reader->length == reader->room) {
        size_t room = reader->room ? 2 * reader->room : 64;
        char *text = realloc(reader->text, room);
        if (text == NULL) {
            return fail(lisp, "no memory for a token of %zu bytes", room);
        }
        reader->text = text;
        reader->room = room;
    }
    reader->text[reader->length++] = (char)character;
    return true;
}

static bool read_string(struct lisp *lisp, struct reader *reader, lh_ref *result) {
    reader->length = 0;
    for (;;) {
        int character = next_character(reader);
        if (character == '"') {
            return new_string(lisp, reader->text == NULL ? "" : reader->text, reader->length, result);
        }
        if (character == '\\') {
            character = next_character(reader);
            character = character == 'n' ? '\n' : character;
        }
        if (character == EOF) {
            return fail(lisp, "a string has no end");
        }
        TRY(add_character(lisp, reader, character));
    }
}

/* A number or a symbol. */
static bool read_atom(struct lisp *lisp, struct reader *reader, int character, lh_ref *result) {
    reader->length = 0;
    while (character != EOF && !isspace(character) && strchr("()'\";", character) == NULL) {
        TRY(add_character(lisp, reader, character));
        character = next_character(reader);
    }
    if (character != EOF) {
        put_back(reader, character);
    }
    TRY(add_character(lisp, reader, '\0'));
    const char *text = reader->text, *digits = text + (*text == '-' || *text == '+');
    if (!isdigit((unsigned char)*digits)) {
        return intern(lisp, text, reader->length - 1, result);
    }
    char *end;
    errno = 0;
    int64_t value = strtoll(text, &end, 10);
    if (*end != '\0') {
        return fail(lisp, "`%.100s` is not a number", text);
    }
    if (errno == ERANGE) {
        return fail(lisp, "%.100s does not fit in 64 bits", text);
    }
    return new_integer(lisp, value, result);
}

static bool read_value(struct lisp *lisp, struct reader *reader, int character, lh_ref *result);

/* What follows an opening parenthesis, with the line where each of its pairs begins. */
static bool read_list(struct lisp *lisp, struct reader *reader, lh_ref *result) {
    enum { FIRST, LAST, VALUE, SLOTS };
    LH_FRAME(lisp->heap, slot, SLOTS);
    for (;;) {
        int character = next_significant(reader);
        unsigned line = reader->line;
        if (character == ')') {
            *result = slot[FIRST];
            return true;
        }
        TRY(read_value(lisp, reader, character, &slot[VALUE]));
        lh_ref pair;
        HEAP(lh_alloc_struct(lisp->heap, lisp->located, &pair));
        HEAP(lh_struct_set_ref(lisp->heap, pair, PAIR_CAR, slot[VALUE]));
        HEAP(lh_struct_set_i32(lisp->heap, pair, LOCATED_LINE, (int32_t)line));
        if (slot[LAST] == LH_NULL) {
            slot[FIRST] = pair;
        } else {
            HEAP(lh_struct_set_ref(lisp->heap, slot[LAST], PAIR_CDR, pair));
        }
        slot[LAST] = pair;
    }
}

/* The value that begins with `character`. */
static bool read_value(struct lisp *lisp, struct reader *reader, int character, lh_ref *result) {
    lisp->line = reader->line;
    if (character == EOF) {
        return fail(lisp, "the program ends within a list");
    }
    if (character == ')') {
        return fail(lisp, "a closing parenthesis without an opening one");
    }
    if (character == '"') {
        return read_string(lisp, reader, result);
    }
    if (character != '(' && character != '\'') {
        return read_atom(lisp, reader, character, result);
    }
    if (reader->depth == READ_DEPTH) {
        return fail(lisp, "lists are nested more than %d deep", READ_DEPTH);
    }
    reader->depth++;
    if (character == '(') {
        TRY(read_list(lisp, reader, result));
    } else {
        LH_FRAME(lisp->heap, quoted, 1);
        TRY(read_value(lisp, reader, next_significant(reader), &quoted[0]));
        TRY(new_pair(lisp, quoted[0], LH_NULL, &quoted[0]));
        TRY(new_pair(lisp, lisp->quote, quoted[0], result));
    }
    reader->depth--;
    return true;
}

/* ----------------------------------------------------- Printing ----------------------------------------------------- */

/* Print a value. Nothing is allocated here, so that references need no frame. */
static bool print(struct lisp *lisp, lh_ref value, unsigned depth) {
    const char *bytes;
    uint32_t length;
    int64_t number;
    void *data;
    lh_ref part;
    if (depth == PRINT_DEPTH) {
        return fail(lisp, "lists that are nested more than %d deep are not printed", PRINT_DEPTH);
    }
    switch (kind_of(lisp, value)) {
    case NIL:
        printf("()");
        return true;
    case INTEGER:
        TRY(integer_value(lisp, value, &number));
        printf("%" PRId64, number);
        return true;
    case SYMBOL:
        HEAP(lh_struct_get_ref(lisp->heap, value, SYMBOL_NAME, &part));
        TRY(string_bytes(lisp, part, &bytes, &length));
        fwrite(bytes, 1, length, stdout);
        return true;
    case STRING:
        TRY(string_bytes(lisp, value, &bytes, &length));
        putchar('"');
        for (uint32_t i = 0; i < length; i++) {
            if (bytes[i] == '"' || bytes[i] == '\\' || bytes[i] == '\n') {
                putchar('\\');
            }
            putchar(bytes[i] == '\n' ? 'n' : bytes[i]);
        }
        putchar('"');
        return true;
    case CLOSURE:
        printf("#<closure>");
        return true;
    case BUILTIN:
        HEAP(lh_externref_data(lisp->heap, value, &data));
        printf("#<builtin %s>", ((const struct builtin *)data)->name);
        return true;
    case PAIR:
        break;
    }
    for (char separator = '('; kind_of(lisp, value) == PAIR; separator = ' ') {
        putchar(separator);
        HEAP(lh_struct_get_ref(lisp->heap, value, PAIR_CAR, &part));
        TRY(print(lisp, part, depth + 1));
        HEAP(lh_struct_get_ref(lisp->heap, value, PAIR_CDR, &value));
    }
    if (value != LH_NULL) {
        printf(" . ");
        TRY(print(lisp, value, depth + 1));
    }
    putchar(')');
    return true;
}

/* ---------------------------------------------------- Environments -------------------------------------------------- */

/* Bind a name in an environment, or, where that is null, at the top. */
static bool bind(struct lisp *lisp, lh_ref environment, lh_ref name, lh_ref value) {
    lh_heap *heap = lisp->heap;
    if (environment == LH_NULL) {
        HEAP(lh_struct_set_ref(heap, name, SYMBOL_VALUE, value));
        HEAP(lh_struct_set_i32(heap, name, SYMBOL_IS_BOUND, 1));
        return true;
    }
    lh_ref binding, next;
    HEAP(lh_alloc_struct(heap, lisp->binding, &binding));
    HEAP(lh_struct_get_ref(heap, environment, ENVIRONMENT_BINDINGS, &next));
    HEAP(lh_struct_set_ref(heap, binding, BINDING_NAME, name));
    HEAP(lh_struct_set_ref(heap, binding, BINDING_VALUE, value));
    HEAP(lh_struct_set_ref(heap, binding, BINDING_NEXT, next));
    HEAP(lh_struct_set_ref(heap, environment, ENVIRONMENT_BINDINGS, binding));
    return true;
}

/* Where a name's value is: a binding or the symbol itself, and the number of the field. */
static bool look_up(struct lisp *lisp, lh_ref environment, lh_ref name, lh_ref *holder, uint32_t *field) {
    lh_heap *heap = lisp->heap;
    while (environment != LH_NULL) {
        lh_ref binding, bound;
        HEAP(lh_struct_get_ref(heap, environment, ENVIRONMENT_BINDINGS, &binding));
        while (binding != LH_NULL) {
            HEAP(lh_struct_get_ref(heap, binding, BINDING_NAME, &bound));
            if (bound == name) {
                *holder = binding;
                *field = BINDING_VALUE;
                return true;
            }
            HEAP(lh_struct_get_ref(heap, binding, BINDING_NEXT, &binding));
        }
        HEAP(lh_struct_get_ref(heap, environment, ENVIRONMENT_PARENT, &environment));
    }
    int32_t is_bound;
    HEAP(lh_struct_get_i32(heap, name, SYMBOL_IS_BOUND, &is_bound));
    if (!is_bound) {
        const char *bytes;
        uint32_t length;
        lh_ref text;
        HEAP(lh_struct_get_ref(heap, name, SYMBOL_NAME, &text));
        TRY(string_bytes(lisp, text, &bytes, &length));
        return fail(lisp, "%.*s is not bound", length > 100 ? 100 : (int)length, bytes);
    }
    *holder = name;
    *field = SYMBOL_VALUE;
    return true;
}

static bool new_environment(struct lisp *lisp, lh_ref parent, lh_ref *result) {
    lh_ref environment;
    HEAP(lh_alloc_struct(lisp->heap, lisp->environment, &environment));
    HEAP(lh_struct_set_ref(lisp->heap, environment, ENVIRONMENT_PARENT, parent));
    *result = environment;
    return true;
}

/* ---------------------------------------------------- Evaluating ---------------------------------------------------- */

static bool eval(struct lisp *lisp, lh_ref expression, lh_ref environment, lh_ref *result);

/* The part of a form by its number; `form` names it where there is none. */
static bool form_part(struct lisp *lisp, lh_ref list, unsigned number, const char *form, lh_ref *result) {
    for (;; number--) {
        if (kind_of(lisp, list) != PAIR) {
            return fail(lisp, "%s: something is missing", form);
        }
        if (number == 0) {
            HEAP(lh_struct_get_ref(lisp->heap, list, PAIR_CAR, result));
            return true;
        }
        HEAP(lh_struct_get_ref(lisp->heap, list, PAIR_CDR, &list));
    }
}

/* The values of a list of expressions, as a list. */
static bool eval_list(struct lisp *lisp, lh_ref list, lh_ref environment, lh_ref *result) {
    enum { FIRST, LAST, VALUE, SLOTS };
    LH_FRAME(lisp->heap, slot, SLOTS);
    while (list != LH_NULL) { /* the caller's slot holds its first pair, and so all of them */
        lh_ref expression;
        TRY(pair_part(lisp, list, PAIR_CAR, &expression));
        TRY(eval(lisp, expression, environment, &slot[VALUE]));
        TRY(append(lisp, &slot[FIRST], &slot[LAST], slot[VALUE]));
        TRY(pair_part(lisp, list, PAIR_CDR, &list));
    }
    *result = slot[FIRST];
    return true;
}

/* A new environment inside a closure's, with its parameters bound. */
static bool bind_arguments(struct lisp *lisp, lh_ref closure, lh_ref arguments, lh_ref *result) {
    lh_heap *heap = lisp->heap;
    LH_FRAME(heap, environment, 1);
    lh_ref parameters, parent, name, value;
    HEAP(lh_struct_get_ref(heap, closure, CLOSURE_ENVIRONMENT, &parent));
    TRY(new_environment(lisp, parent, &environment[0]));
    /* Read only now: a deferred reference that is in no slot would be stale behind the allocation. */
    HEAP(lh_struct_get_ref(heap, closure, CLOSURE_PARAMETERS, &parameters));
    while (kind_of(lisp, parameters) == PAIR) { /* the closure and our caller hold these lists */
        if (arguments == LH_NULL) {
            return fail(lisp, "too few arguments");
        }
        TRY(pair_part(lisp, parameters, PAIR_CAR, &name));
        TRY(pair_part(lisp, arguments, PAIR_CAR, &value));
        TRY(bind(lisp, environment[0], name, value));
        TRY(pair_part(lisp, parameters, PAIR_CDR, &parameters));
        TRY(pair_part(lisp, arguments, PAIR_CDR, &arguments));
    }
    if (parameters != LH_NULL) { /* a symbol, for all arguments */
        TRY(bind(lisp, environment[0], parameters, arguments));
    } else if (arguments != LH_NULL) {
        return fail(lisp, "too many arguments");
    }
    *result = environment[0];
    return true;
}

/* (lambda PARAMETERS BODY...), or (lambda NAME BODY...), where NAME gets the list of all arguments. */
static bool new_closure(struct lisp *lisp, lh_ref parameters, lh_ref body, lh_ref environment, lh_ref *result) {
    lh_ref list = parameters, name, closure;
    while (kind_of(lisp, list) == PAIR) {
        TRY(pair_part(lisp, list, PAIR_CAR, &name));
        TRY(kind_of(lisp, name) == SYMBOL || fail(lisp, "lambda: a parameter is not a symbol"));
        TRY(pair_part(lisp, list, PAIR_CDR, &list));
    }
    TRY(list == LH_NULL || (list == parameters && kind_of(lisp, list) == SYMBOL) ||
        fail(lisp, "lambda: the parameters are neither a list nor a symbol"));
    TRY(kind_of(lisp, body) == PAIR || fail(lisp, "lambda: something is missing"));
    HEAP(lh_alloc_struct(lisp->heap, lisp->closure, &closure));
    HEAP(lh_struct_set_ref(lisp->heap, closure, CLOSURE_PARAMETERS, parameters));
    HEAP(lh_struct_set_ref(lisp->heap, closure, CLOSURE_BODY, body));
    HEAP(lh_struct_set_ref(lisp->heap, closure, CLOSURE_ENVIRONMENT, environment));
    *result = closure;
    return true;
}

/* (define NAME VALUE) and (define (NAME PARAMETER...) BODY...) */
static bool eval_define(struct lisp *lisp, lh_ref form, lh_ref environment) {
    lh_ref name, rest, expression;
    LH_FRAME(lisp->heap, value, 1);
    TRY(form_part(lisp, form, 1, "define", &name));
    if (kind_of(lisp, name) == PAIR) {
        lh_ref parameters, body;
        TRY(pair_part(lisp, name, PAIR_CDR, &parameters));
        TRY(pair_part(lisp, name, PAIR_CAR, &name));
        TRY(pair_part(lisp, form, PAIR_CDR, &rest));
        TRY(pair_part(lisp, rest, PAIR_CDR, &body));
        TRY(new_closure(lisp, parameters, body, environment, &value[0]));
    } else {
        TRY(form_part(lisp, form, 2, "define", &expression));
        TRY(eval(lisp, expression, environment, &value[0]));
    }
    TRY(kind_of(lisp, name) == SYMBOL || fail(lisp, "define: a name is wanted"));
    return bind(lisp, environment, name, value[0]);
}

static bool eval_set(struct lisp *lisp, lh_ref form, lh_ref environment) {
    lh_ref name, expression, value, holder;
    uint32_t field;
    TRY(form_part(lisp, form, 1, "set!", &name));
    TRY(form_part(lisp, form, 2, "set!", &expression));
    TRY(kind_of(lisp, name) == SYMBOL || fail(lisp, "set!: a name is wanted"));
    TRY(eval(lisp, expression, environment, &value));
    TRY(look_up(lisp, environment, name, &holder, &field));
    HEAP(lh_struct_set_ref(lisp->heap, holder, field, value));
    return true;
}

/* The environment of a let: its values are evaluated outside of it. */
static bool eval_let(struct lisp *lisp, lh_ref form, lh_ref environment, lh_ref *result) {
    enum { INNER, VALUE, SLOTS };
    LH_FRAME(lisp->heap, slot, SLOTS);
    lh_ref bindings, binding, name, expression;
    TRY(new_environment(lisp, environment, &slot[INNER]));
    TRY(form_part(lisp, form, 1, "let", &bindings));
    while (bindings != LH_NULL) {
        TRY(pair_part(lisp, bindings, PAIR_CAR, &binding));
        TRY(form_part(lisp, binding, 0, "let", &name));
        TRY(form_part(lisp, binding, 1, "let", &expression));
        TRY(kind_of(lisp, name) == SYMBOL || fail(lisp, "let: a name is wanted"));
        TRY(eval(lisp, expression, environment, &slot[VALUE]));
        TRY(bind(lisp, slot[INNER], name, slot[VALUE]));
        TRY(pair_part(lisp, bindings, PAIR_CDR, &bindings));
    }
    *result = slot[INNER];
    return true;
}

static bool call_builtin(struct lisp *lisp, lh_ref function, lh_ref arguments, lh_ref *result) {
    void *data;
    HEAP(lh_externref_data(lisp->heap, function, &data));
    const struct builtin *builtin = data;
    int count = 0;
    for (lh_ref rest = arguments; rest != LH_NULL; count++) {
        TRY(pair_part(lisp, rest, PAIR_CDR, &rest));
    }
    if (count < builtin->least || (builtin->most >= 0 && count > builtin->most)) {
        return fail(lisp, "%s: %d arguments are given", builtin->name, count);
    }
    return builtin->call(lisp, builtin, arguments, result);
}

/* The line of a pair that was read; of others, the line that was known before. */
static unsigned line_of(struct lisp *lisp, lh_ref pair) {
    int32_t line;
    uint32_t is_located;
    if (lh_is_instance(lisp->heap, pair, lisp->located, &is_located) == LH_OK && is_located &&
        lh_struct_get_i32(lisp->heap, pair, LOCATED_LINE, &line) == LH_OK) {
        return (unsigned)line;
    }
    return lisp->line;
}

/* What eval does, one turn for each expression in tail position. */
static bool eval_in_turn(struct lisp *lisp, lh_ref expression, lh_ref environment, lh_ref *result) {
    lh_heap *heap = lisp->heap;
    enum { EXPRESSION, ENVIRONMENT, FUNCTION, VALUE, BODY, SLOTS };
    LH_FRAME(heap, slot, SLOTS);
    slot[EXPRESSION] = expression;
    slot[ENVIRONMENT] = environment;
    for (;;) {
        lh_ref form = slot[EXPRESSION], head, holder;
        uint32_t field;
        if (kind_of(lisp, form) == SYMBOL) {
            TRY(look_up(lisp, slot[ENVIRONMENT], form, &holder, &field));
            HEAP(lh_struct_get_ref(heap, holder, field, result));
            return true;
        }
        if (kind_of(lisp, form) != PAIR) {
            *result = form;
            return true;
        }
        unsigned line = lisp->line = line_of(lisp, form);
        TRY(pair_part(lisp, form, PAIR_CAR, &head));
        if (head == lisp->quote) {
            return form_part(lisp, form, 1, "quote", result);
        }
        if (head == lisp->define) {
            TRY(eval_define(lisp, form, slot[ENVIRONMENT]));
            return kept(lisp, &lisp->nothing, result);
        }
        if (head == lisp->set) {
            TRY(eval_set(lisp, form, slot[ENVIRONMENT]));
            return kept(lisp, &lisp->nothing, result);
        }
        if (head == lisp->lambda) {
            lh_ref rest, parameters, body;
            TRY(form_part(lisp, form, 1, "lambda", &parameters));
            TRY(pair_part(lisp, form, PAIR_CDR, &rest));
            TRY(pair_part(lisp, rest, PAIR_CDR, &body));
            return new_closure(lisp, parameters, body, slot[ENVIRONMENT], result);
        }
        if (head == lisp->if_) {
            lh_ref condition;
            TRY(form_part(lisp, form, 1, "if", &condition));
            TRY(eval(lisp, condition, slot[ENVIRONMENT], &slot[VALUE]));
            TRY(form_part(lisp, form, slot[VALUE] == lisp->false_ ? 3 : 2, "if", &slot[EXPRESSION]));
            continue;
        }
        if (head == lisp->begin) {
            TRY(pair_part(lisp, form, PAIR_CDR, &slot[BODY]));
        } else if (head == lisp->let) {
            lh_ref rest, inner;
            TRY(eval_let(lisp, form, slot[ENVIRONMENT], &inner));
            slot[ENVIRONMENT] = inner;
            TRY(pair_part(lisp, form, PAIR_CDR, &rest));
            TRY(pair_part(lisp, rest, PAIR_CDR, &slot[BODY]));
        } else {
            lh_ref rest;
            TRY(eval(lisp, head, slot[ENVIRONMENT], &slot[FUNCTION]));
            TRY(pair_part(lisp, form, PAIR_CDR, &rest));
            TRY(eval_list(lisp, rest, slot[ENVIRONMENT], &slot[VALUE]));
            lisp->line = line;
            enum kind kind = kind_of(lisp, slot[FUNCTION]);
            if (kind == BUILTIN) {
                return call_builtin(lisp, slot[FUNCTION], slot[VALUE], result);
            }
            if (kind != CLOSURE) {
                return fail(lisp, "what is called is not a function");
            }
            TRY(bind_arguments(lisp, slot[FUNCTION], slot[VALUE], &slot[ENVIRONMENT]));
            HEAP(lh_struct_get_ref(heap, slot[FUNCTION], CLOSURE_BODY, &slot[BODY]));
        }
        /* A body: all but its last expression for their effects, and that one in the next turn. */
        for (;;) {
            lh_ref rest;
            TRY(form_part(lisp, slot[BODY], 0, "a body", &slot[EXPRESSION]));
            TRY(pair_part(lisp, slot[BODY], PAIR_CDR, &rest));
            if (rest == LH_NULL) {
                break;
            }
            slot[BODY] = rest;
            TRY(eval(lisp, slot[EXPRESSION], slot[ENVIRONMENT], &slot[VALUE]));
        }
    }
}

static bool eval(struct lisp *lisp, lh_ref expression, lh_ref environment, lh_ref *result) {
    if (lisp->depth == lisp->depth_limit) {
        return fail(lisp, "recursion is more than %u deep", lisp->depth_limit);
    }
    lisp->depth++;
    bool done = eval_in_turn(lisp, expression, environment, result);
    lisp->depth--;
    return done;
}

/* ----------------------------------------------------- Functions ---------------------------------------------------- */

/* The arguments, which are of the right number, one after the other: rooted by their list, which the caller holds. */
static bool next_argument(struct lisp *lisp, lh_ref *arguments, lh_ref *value) {
    TRY(pair_part(lisp, *arguments, PAIR_CAR, value));
    return pair_part(lisp, *arguments, PAIR_CDR, arguments);
}

static bool call_arithmetic(struct lisp *lisp, const struct builtin *self, lh_ref arguments, lh_ref *result) {
    char operation = self->name[0];
    int64_t sum = operation == '*', number;
    bool overflow = false;
    lh_ref value;
    if (operation == '-') {
        TRY(next_argument(lisp, &arguments, &value));
        TRY(integer_value(lisp, value, &sum));
        if (arguments == LH_NULL) {
            overflow = __builtin_sub_overflow(0, sum, &sum);
        }
    }
    while (arguments != LH_NULL && !overflow) {
        TRY(next_argument(lisp, &arguments, &value));
        TRY(integer_value(lisp, value, &number));
        overflow = operation == '+' ? __builtin_add_overflow(sum, number, &sum)
                 : operation == '-' ? __builtin_sub_overflow(sum, number, &sum)
                 : __builtin_mul_overflow(sum, number, &sum);
    }
    return overflow ? fail(lisp, "%s: the result does not fit in 64 bits", self->name) : new_integer(lisp, sum, result);
}

static bool call_division(struct lisp *lisp, const struct builtin *self, lh_ref arguments, lh_ref *result) {
    lh_ref value;
    int64_t dividend, divisor;
    TRY(next_argument(lisp, &arguments, &value));
    TRY(integer_value(lisp, value, &dividend));
    TRY(next_argument(lisp, &arguments, &value));
    TRY(integer_value(lisp, value, &divisor));
    if (divisor == 0) {
        return fail(lisp, "%s: division by zero", self->name);
    }
    bool is_quotient = self->name[0] == 'q';
    if (divisor == -1) { /* the one quotient that may not fit, and its remainder, which C leaves undefined */
        if (is_quotient && dividend == INT64_MIN) {
            return fail(lisp, "%s: the result does not fit in 64 bits", self->name);
        }
        return new_integer(lisp, is_quotient ? -dividend : 0, result);
    }
    return new_integer(lisp, is_quotient ? dividend / divisor : dividend % divisor, result);
}

static bool call_comparison(struct lisp *lisp, const struct builtin *self, lh_ref arguments, lh_ref *result) {
    lh_ref value;
    int64_t left, right;
    bool all = true;
    TRY(next_argument(lisp, &arguments, &value));
    TRY(integer_value(lisp, value, &left));
    for (; arguments != LH_NULL; left = right) {
        TRY(next_argument(lisp, &arguments, &value));
        TRY(integer_value(lisp, value, &right));
        bool holds = strcmp(self->name, "=") == 0 ? left == right
                   : strcmp(self->name, "<") == 0 ? left < right
                   : strcmp(self->name, ">") == 0 ? left > right
                   : strcmp(self->name, "<=") == 0 ? left <= right
                   : left >= right;
        all = all && holds;
    }
    return kept(lisp, all ? &lisp->true_ : &lisp->false_, result);
}

static bool call_cons(struct lisp *lisp, const struct builtin *self, lh_ref arguments, lh_ref *result) {
    (void)self;
    lh_ref car, cdr;
    TRY(next_argument(lisp, &arguments, &car));
    TRY(next_argument(lisp, &arguments, &cdr));
    return new_pair(lisp, car, cdr, result);
}

static bool call_part(struct lisp *lisp, const struct builtin *self, lh_ref arguments, lh_ref *result) {
    lh_ref pair;
    TRY(next_argument(lisp, &arguments, &pair));
    if (kind_of(lisp, pair) != PAIR) {
        return fail(lisp, "%s: a pair is wanted", self->name);
    }
    return pair_part(lisp, pair, self->name[1] == 'a' ? PAIR_CAR : PAIR_CDR, result);
}

static bool call_list(struct lisp *lisp, const struct builtin *self, lh_ref arguments, lh_ref *result) {
    (void)lisp, (void)self;
    *result = arguments;
    return true;
}

static bool call_is_null(struct lisp *lisp, const struct builtin *self, lh_ref arguments, lh_ref *result) {
    (void)self;
    lh_ref value;
    TRY(next_argument(lisp, &arguments, &value));
    return kept(lisp, value == LH_NULL ? &lisp->true_ : &lisp->false_, result);
}

/* The same object, or the same number. */
static bool call_is_eq(struct lisp *lisp, const struct builtin *self, lh_ref arguments, lh_ref *result) {
    (void)self;
    lh_ref left, right;
    TRY(next_argument(lisp, &arguments, &left));
    TRY(next_argument(lisp, &arguments, &right));
    bool same = left == right;
    if (!same && kind_of(lisp, left) == INTEGER && kind_of(lisp, right) == INTEGER) {
        int64_t first, second;
        TRY(integer_value(lisp, left, &first));
        TRY(integer_value(lisp, right, &second));
        same = first == second;
    }
    return kept(lisp, same ? &lisp->true_ : &lisp->false_, result);
}

static bool call_string_append(struct lisp *lisp, const struct builtin *self, lh_ref arguments, lh_ref *result) {
    lh_ref value;
    const char *bytes;
    uint32_t length, total = 0;
    for (lh_ref rest = arguments; rest != LH_NULL; total += length) {
        TRY(next_argument(lisp, &rest, &value));
        TRY(kind_of(lisp, value) == STRING || fail(lisp, "%s: a string is wanted", self->name));
        TRY(string_bytes(lisp, value, &bytes, &length));
        TRY(length <= UINT32_MAX - total || fail(lisp, "%s: the result is too long", self->name));
    }
    lh_ref string;
    void *data;
    HEAP(lh_alloc_array(lisp->heap, lisp->string, total, &string));
    HEAP(lh_array_data(lisp->heap, string, &data));
    for (char *end = data; arguments != LH_NULL; end += length) {
        TRY(next_argument(lisp, &arguments, &value));
        TRY(string_bytes(lisp, value, &bytes, &length));
        memcpy(end, bytes, length);
    }
    *result = string;
    return true;
}

static bool call_string_length(struct lisp *lisp, const struct builtin *self, lh_ref arguments, lh_ref *result) {
    lh_ref value;
    uint32_t length;
    TRY(next_argument(lisp, &arguments, &value));
    TRY(kind_of(lisp, value) == STRING || fail(lisp, "%s: a string is wanted", self->name));
    HEAP(lh_array_length(lisp->heap, value, &length));
    return new_integer(lisp, length, result);
}

static bool call_print(struct lisp *lisp, const struct builtin *self, lh_ref arguments, lh_ref *result) {
    (void)self;
    lh_ref value;
    TRY(next_argument(lisp, &arguments, &value));
    TRY(print(lisp, value, 0));
    putchar('\n');
    return kept(lisp, &lisp->nothing, result);
}

static bool call_gc(struct lisp *lisp, const struct builtin *self, lh_ref arguments, lh_ref *result) {
    (void)self, (void)arguments;
    HEAP(lh_collect(lisp->heap));
    return kept(lisp, &lisp->nothing, result);
}

static bool call_heap_stats(struct lisp *lisp, const struct builtin *self, lh_ref arguments, lh_ref *result) {
    (void)self, (void)arguments;
    lh_statistics figures;
    HEAP(lh_heap_statistics(lisp->heap, &figures));
    printf("live %" PRIu64 " objects, %" PRIu64 " bytes; allocated %" PRIu64 " objects; capacity %" PRIu64 " bytes\n",
           figures.live_objects, figures.live_bytes, figures.objects_allocated, figures.capacity);
    return kept(lisp, &lisp->nothing, result);
}

static uint32_t write_piece(void *argument, const void *data, uint64_t size) {
    return fwrite(data, 1, size, argument) == size ? 0 : 1;
}

/* (dump FILE) writes the heap, for `lowheap inspect FILE`. */
static bool call_dump(struct lisp *lisp, const struct builtin *self, lh_ref arguments, lh_ref *result) {
    char name[4096];
    lh_ref value;
    const char *bytes;
    uint32_t length;
    TRY(next_argument(lisp, &arguments, &value));
    TRY(kind_of(lisp, value) == STRING || fail(lisp, "%s: a string is wanted", self->name));
    TRY(string_bytes(lisp, value, &bytes, &length));
    TRY(length < sizeof name || fail(lisp, "%s: the name is too long", self->name));
    memcpy(name, bytes, length);
    name[length] = '\0';
    FILE *file = fopen(name, "wb");
    if (file == NULL) {
        return fail(lisp, "%s: %.100s: %s", self->name, name, strerror(errno));
    }
    lh_status status = lh_dump(lisp->heap, write_piece, file);
    if (fclose(file) != 0 || status != LH_OK) {
        return fail(lisp, "%s: %.100s cannot be written", self->name, name);
    }
    return kept(lisp, &lisp->nothing, result);
}

static const struct builtin BUILTINS[] = {
    {"+", call_arithmetic, 0, -1},
    {"-", call_arithmetic, 1, -1},
    {"*", call_arithmetic, 0, -1},
    {"quotient", call_division, 2, 2},
    {"remainder", call_division, 2, 2},
    {"=", call_comparison, 1, -1},
    {"<", call_comparison, 1, -1},
    {">", call_comparison, 1, -1},
    {"<=", call_comparison, 1, -1},
    {">=", call_comparison, 1, -1},
    {"cons", call_cons, 2, 2},
    {"car", call_part, 1, 1},
    {"cdr", call_part, 1, 1},
    {"list", call_list, 0, -1},
    {"null?", call_is_null, 1, 1},
    {"eq?", call_is_eq, 2, 2},
    {"string-append", call_string_append, 0, -1},
    {"string-length", call_string_length, 1, 1},
    {"print", call_print, 1, 1},
    {"gc", call_gc, 0, 0},
    {"heap-stats", call_heap_stats, 0, 0},
    {"dump", call_dump, 1, 1},
};

/* ---------------------------------------------------- The program --------------------------------------------------- */

static bool set_up(struct lisp *lisp) {
    lh_heap *heap = lisp->heap;
    lh_ref table;
    TRY(define_types(lisp));
    HEAP(lh_slot_register(heap, &lisp->symbols));
    HEAP(lh_alloc_array(heap, lisp->table, BUCKETS, &table));
    HEAP(lh_write(heap, &lisp->symbols, table));
    const struct {
        const char *name;
        lh_ref *symbol;
    } known[] = {
        {"quote", &lisp->quote}, {"if", &lisp->if_}, {"define", &lisp->define}, {"lambda", &lisp->lambda},
        {"let", &lisp->let}, {"begin", &lisp->begin}, {"set!", &lisp->set}, {"#t", &lisp->true_},
        {"#f", &lisp->false_}, {"#nothing", &lisp->nothing},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        lh_ref symbol;
        HEAP(lh_slot_register(heap, known[i].symbol));
        TRY(intern(lisp, known[i].name, strlen(known[i].name), &symbol));
        HEAP(lh_write(heap, known[i].symbol, symbol));
    }
    TRY(bind(lisp, LH_NULL, lisp->true_, lisp->true_));
    TRY(bind(lisp, LH_NULL, lisp->false_, lisp->false_));
    for (size_t i = 0; i < sizeof BUILTINS / sizeof *BUILTINS; i++) {
        lh_ref name, function;
        TRY(intern(lisp, BUILTINS[i].name, strlen(BUILTINS[i].name), &name)); /* which the table holds */
        HEAP(lh_alloc_externref(heap, (void *)(uintptr_t)&BUILTINS[i], NULL, &function));
        TRY(bind(lisp, LH_NULL, name, function));
    }
    return true;
}

/* Read a form, evaluate it, print what it gives. */
static bool run_form(struct lisp *lisp, struct reader *reader, int character, bool *was_read) {
    LH_FRAME(lisp->heap, form, 1);
    reader->depth = lisp->depth = 0;
    *was_read = read_value(lisp, reader, character, &form[0]);
    TRY(*was_read);
    TRY(eval(lisp, form[0], LH_NULL, &form[0]));
    if (form[0] != lisp->nothing) {
        TRY(print(lisp, form[0], 0));
        putchar('\n');
    }
    return true;
}

/* Run a program; return the number of errors. One while reading ends it: nobody knows where the next form begins. */
static unsigned run(struct lisp *lisp, struct reader *reader, bool verify) {
    unsigned errors = 0;
    bool was_read = true;
    int character;
    while (was_read && (character = next_significant(reader)) != EOF) {
        bool done = run_form(lisp, reader, character, &was_read);
        if (done && verify) {
            done = lh_verify(lisp->heap) == LH_OK;
        }
        if (!done) {
            fflush(stdout);
            fprintf(stderr, "line %u: %s\n", lisp->line, lisp->message);
            errors++;
        }
    }
    return errors;
}

static bool number_option(const char *text, uint64_t *result) {
    char *end;
    errno = 0;
    *result = strtoull(text, &end, 0);
    return isdigit((unsigned char)*text) && *end == '\0' && errno == 0;
}

int main(int count, char **arguments) {
    struct lisp lisp = {.depth_limit = 2000};
    lh_config config = LH_CONFIG;
    config.on_error = note_heap_error;
    config.on_error_argument = &lisp;
    uint64_t collect_every = 0, depth_limit = lisp.depth_limit;
    bool verify = false;
    for (int i = 1; i < count; i++) {
        const char *name = arguments[i];
        uint64_t *number = strcmp(name, "--collect-every") == 0 ? &collect_every
                         : strcmp(name, "--reserve") == 0 ? &config.reserve
                         : strcmp(name, "--initial") == 0 ? &config.initial
                         : strcmp(name, "--depth") == 0 ? &depth_limit
                         : NULL;
        bool is_right = number == NULL ? strcmp(name, "--verify") == 0
                                       : ++i < count && number_option(arguments[i], number);
        if (!is_right || collect_every > UINT32_MAX || depth_limit > UINT32_MAX) {
            fprintf(stderr, "usage: %s [--collect-every N] [--verify] [--reserve BYTES] [--initial BYTES] [--depth N]"
                            " < PROGRAM\n", arguments[0]);
            return 2;
        }
        verify |= number == NULL;
    }
    config.collect_every = (uint32_t)collect_every;
    lisp.depth_limit = (unsigned)depth_limit;
    lh_status status = lh_heap_create(&config, &lisp.heap);
    if (status != LH_OK) {
        fprintf(stderr, "%s\n", lisp.message[0] ? lisp.message : lh_status_name(status));
        return 2;
    }
    unsigned errors = 1;
    if (set_up(&lisp)) {
        struct reader reader = {.file = stdin, .line = 1};
        errors = run(&lisp, &reader, verify);
        free(reader.text);
    } else {
        fprintf(stderr, "%s\n", lisp.message);
    }
    lh_heap_destroy(lisp.heap);
    return errors == 0 ? 0 : 1;
}
