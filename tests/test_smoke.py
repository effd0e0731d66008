def test_fit_predict(make_clf, texts, labels):
    clf = make_clf(max_epochs=5).fit(texts, labels)
    assert clf.score(texts, labels) > 0.9
