//! Texts of a language as tantivy cuts them: as its analyzer `default` does, each word then replaced by its stem.

use flotilla_proto::fulltext::Language;
use flotilla_proto::limits::TEXT_WORD_BYTES_MAX;
use tantivy::tokenizer::{
    LowerCaser, RemoveLongFilter, SimpleTokenizer, TextAnalyzer, Token, TokenFilter, TokenStream, Tokenizer,
    TokenizerManager,
};

/// tantivy's own analyzers, and one of the name of each language.
pub(super) fn analyzers() -> TokenizerManager {
    let analyzers = TokenizerManager::default();
    for language in Language::ALL {
        let analyzer = TextAnalyzer::builder(SimpleTokenizer::default())
            .filter(RemoveLongFilter::limit(TEXT_WORD_BYTES_MAX + 1))
            .filter(LowerCaser)
            .filter(Stems(language))
            .build();
        analyzers.register(language.name(), analyzer);
    }
    analyzers
}

/// Replaces words by their stems.
#[derive(Clone)]
struct Stems(Language);

#[derive(Clone)]
struct Stemmed<T> {
    language: Language,
    words: T,
}

struct Stream<T> {
    language: Language,
    words: T,
}

impl TokenFilter for Stems {
    type Tokenizer<T: Tokenizer> = Stemmed<T>;

    fn transform<T: Tokenizer>(self, words: T) -> Stemmed<T> {
        Stemmed { language: self.0, words }
    }
}

impl<T: Tokenizer> Tokenizer for Stemmed<T> {
    type TokenStream<'a> = Stream<T::TokenStream<'a>>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> Stream<T::TokenStream<'a>> {
        Stream { language: self.language, words: self.words.token_stream(text) }
    }
}

impl<T: TokenStream> TokenStream for Stream<T> {
    fn advance(&mut self) -> bool {
        let is_there = self.words.advance();
        if is_there {
            self.language.stem(&mut self.words.token_mut().text);
        }
        is_there
    }

    fn token(&self) -> &Token {
        self.words.token()
    }

    fn token_mut(&mut self) -> &mut Token {
        self.words.token_mut()
    }
}
